//! A process's place among those that a launcher started, as its environment tells.

use std::env;

use crate::Error;

/// Which of how many processes this one is, and where they meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// This process, from 0.
    pub rank: usize,
    /// All processes.
    pub world: usize,
    /// This process among those of its machine, from 0.
    pub local_rank: usize,
    /// Where the store is that they meet at: host and port.
    pub store: (String, u16),
    /// Whether process 0 keeps the store; torchrun keeps one itself.
    pub keeps_store: bool,
}

/// The variables of one launcher.
struct Launcher {
    rank: &'static str,
    world: &'static str,
    local_rank: &'static str,
    /// Processes on this machine.
    local_world: &'static str,
    /// Whether process 0 is on the first machine of Slurm's list, where there is one.
    by_slurm: bool,
}

/// The innermost launcher comes first: srun may start torchrun or mpirun, whose processes inherit its variables. Slurm tells the place in
/// a step only to what srun started: a batch script itself has `SLURM_PROCID`, and the size of its allocation in `SLURM_NTASKS`.
const LAUNCHERS: [Launcher; 4] = [
    Launcher {
        rank: "RANK",
        world: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_world: "LOCAL_WORLD_SIZE",
        by_slurm: false,
    },
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        world: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_world: "OMPI_COMM_WORLD_LOCAL_SIZE",
        by_slurm: false,
    },
    Launcher {
        rank: "PMI_RANK",
        world: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_world: "MPI_LOCALNRANKS",
        by_slurm: true,
    },
    Launcher {
        rank: "SLURM_PROCID",
        world: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_world: "SLURM_STEP_TASKS_PER_NODE",
        by_slurm: true,
    },
];

/// PyTorch's.
const DEFAULT_PORT: u16 = 29500;

impl Place {
    /// The place that a launcher gave this process; `None` if none did, or it is the only process.
    ///
    /// # Errors
    /// [`Error::Environment`] for variables that contradict one another, are no numbers, or do not say where to meet.
    pub fn from_env() -> Result<Option<Self>, Error> {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(text) => match text.parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Error::Environment(format!("{name}={text}: expected a number"))),
            },
        };
        let fail = |text: String| Err(Error::Environment(text));
        for launcher in &LAUNCHERS {
            let Launcher { rank: rank_name, world: world_name, .. } = launcher;
            let (rank, world) = match (number(rank_name)?, number(world_name)?) {
                (Some(rank), Some(world)) => (rank, world),
                (None, None) => continue,
                (Some(_), None) if *rank_name == "SLURM_PROCID" => continue,
                (Some(_), None) => return fail(format!("{rank_name} is set, but {world_name} is not")),
                (None, Some(_)) => return fail(format!("{world_name} is set, but {rank_name} is not")),
            };
            if rank >= world {
                return fail(format!(
                    "{rank_name}={rank} contradicts {world_name}={world}: ranks begin at 0"
                ));
            }
            if world == 1 {
                return Ok(None);
            }
            let local_rank = number(launcher.local_rank)?.unwrap_or(0);
            if local_rank > rank {
                let name = launcher.local_rank;
                return fail(format!("{name}={local_rank} contradicts {rank_name}={rank}"));
            }
            let all_here = get(launcher.local_world).is_some_and(|here| here == world.to_string());
            let slurm_nodes = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"].iter().find_map(|name| get(name));
            let host = match (get("MASTER_ADDR"), slurm_nodes) {
                (Some(host), _) => host,
                (None, Some(nodes)) if launcher.by_slurm => first_host(&nodes),
                (None, _) if all_here => "127.0.0.1".to_owned(),
                _ => return fail(format!("MASTER_ADDR is not set: which host is process 0 of {world} on?")),
            };
            let port = match (get("MASTER_PORT"), number("SLURM_JOB_ID")?) {
                (Some(text), _) => match text.parse() {
                    Ok(port) if port > 0 => port,
                    _ => return fail(format!("MASTER_PORT={text}: expected 1 to 65535")),
                },
                // jobs that share a node must not meet; below the ports that systems hand out themselves
                (None, Some(job)) if launcher.by_slurm => 20_000 + (job % 10_000) as u16,
                (None, _) => DEFAULT_PORT,
            };
            let keeps_store = get("TORCHELASTIC_USE_AGENT_STORE").as_deref() != Some("True");
            return Ok(Some(Self { rank, world, local_rank, store: (host, port), keeps_store }));
        }
        Ok(None)
    }
}

/// The first host of a Slurm node list: `gpu03` of `gpu[03-05,9],login`.
fn first_host(list: &str) -> String {
    let mut host = String::new();
    let mut rest = list;
    while let Some(at) = rest.find(['[', ',']) {
        host.push_str(&rest[..at]);
        let (range, after) = match rest[at..].strip_prefix('[').and_then(|inside| inside.split_once(']')) {
            Some(found) => found,
            None => return host, // a comma: the next host begins
        };
        host.push_str(range.split(['-', ',']).next().unwrap_or_default());
        rest = after;
    }
    host + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &str) -> Result<Option<Place>, Error> {
        let pairs: Vec<(&str, &str)> =
            variables.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
        Place::from_variables(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn found(variables: &str) -> (usize, usize, usize, String, bool) {
        let Place { rank, world, local_rank, store: (host, port), keeps_store } =
            place(variables).unwrap().unwrap();
        (rank, world, local_rank, format!("{host}:{port}"), keeps_store)
    }

    #[test]
    fn every_launcher_is_understood() {
        let torchrun =
            "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=a MASTER_PORT=7 TORCHELASTIC_USE_AGENT_STORE=True";
        assert_eq!(found(torchrun), (3, 4, 1, "a:7".into(), false));
        let by_hand = "RANK=1 WORLD_SIZE=2 MASTER_ADDR=job-0.job";
        assert_eq!(found(by_hand), (1, 2, 0, "job-0.job:29500".into(), true));
        let open_mpi = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2";
        assert_eq!(found(open_mpi), (1, 2, 1, "127.0.0.1:29500".into(), true));
        let hydra = "PMI_RANK=0 PMI_SIZE=2 MASTER_ADDR=b";
        assert_eq!(found(hydra), (0, 2, 0, "b:29500".into(), true));
        let slurm = "SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8 SLURM_NTASKS=8 SLURM_LOCALID=1 SLURM_JOB_ID=1234567 SLURM_STEP_NODELIST=gpu[07-08,11]";
        assert_eq!(found(slurm), (5, 8, 1, "gpu07:24567".into(), true));
        assert_eq!(found(&format!("{slurm} MASTER_ADDR=c MASTER_PORT=9")), (5, 8, 1, "c:9".into(), true));
        assert_eq!(found(&format!("{slurm} {torchrun}")), found(torchrun), "the innermost launcher counts");
    }

    #[test]
    fn one_process_needs_no_company() {
        for alone in
            ["", "RANK=0 WORLD_SIZE=1", "SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_JOB_ID=3", "RANK= WORLD_SIZE="]
        {
            assert_eq!(place(alone).unwrap(), None, "{alone}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        for (variables, needle) in [
            ("RANK=2 WORLD_SIZE=2 MASTER_ADDR=a", "RANK=2 contradicts WORLD_SIZE=2"),
            ("RANK=0", "RANK is set, but WORLD_SIZE is not"),
            ("WORLD_SIZE=2", "WORLD_SIZE is set, but RANK is not"),
            ("RANK=one WORLD_SIZE=2", "RANK=one: expected a number"),
            ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=1 MASTER_ADDR=a", "LOCAL_RANK=1 contradicts RANK=0"),
            ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR is not set"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000", "MASTER_PORT=70000"),
            ("OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_SIZE=2", "MASTER_ADDR"),
        ] {
            let error = place(variables).unwrap_err().to_string();
            assert!(error.contains(needle), "{error:?} does not say {needle:?}");
        }
    }

    #[test]
    fn a_node_list_begins_with_its_first_host() {
        for (list, host) in [
            ("node7", "node7"),
            ("a,b", "a"),
            ("gpu[003-006,9],x", "gpu003"),
            ("rack[2,4]-n[10-12].lab", "rack2-n10.lab"),
        ] {
            assert_eq!(first_host(list), host);
        }
    }
}
