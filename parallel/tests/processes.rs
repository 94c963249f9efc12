//! Groups of real processes: this program started twice, with the variables that a launcher would set.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use acdit_parallel::{Exchange, Group, Place, TIMEOUT};
use tch::{Device, Kind, Tensor, nn};

/// Says to a started process what to do; a process without it is nobody's.
const PART: &str = "ACDIT_TEST_PART";
const SHORT: Duration = Duration::from_millis(1500);

/// Starts `parts.len()` processes of `world`, and with `part` for each.
fn start(world: usize, parts: &[&str]) -> Vec<Child> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |(rank, part): (usize, &&str)| {
        Command::new(std::env::current_exe().unwrap())
            .args(["a_process_takes_its_part", "--exact", "--nocapture"])
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", world.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env("OMP_NUM_THREADS", "1")
            .env(PART, part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    parts.iter().enumerate().map(start).collect()
}

/// What a process printed, and whether its assertions held.
fn end(mut child: Child) -> (String, bool) {
    drop(child.stdin.take()); // what a process that never comes waits for
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    (printed + &errors, child.wait().unwrap().success())
}

#[test]
fn a_process_takes_its_part() {
    let Ok(part) = std::env::var(PART) else { return nobodys() };
    let place = Place::from_env().unwrap().unwrap();
    let connect = |timeout| Group::connect(&place, timeout);
    match part.as_str() {
        "together" => together(&connect(TIMEOUT).unwrap()),
        "alone" => println!("{}", connect(SHORT).unwrap_err()),
        "wait" => {
            let group = connect(TIMEOUT).unwrap();
            println!("{}", group.barrier().and_then(|()| group.barrier()).unwrap_err());
        }
        "wait briefly" => println!("{}", connect(SHORT).unwrap().barrier().unwrap_err()),
        "never come" => {
            let _group = connect(TIMEOUT).unwrap();
            println!("\nconnected");
            let _ = std::io::stdin().read_line(&mut String::new());
        }
        other => panic!("no part {other}"),
    }
}

/// A group of one does nothing and gives back what it is given.
fn nobodys() {
    let group = Group::alone();
    assert_eq!((group.rank(), group.world(), group.leads()), (0, 1, true));
    let rows = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
    group.average(&rows).unwrap();
    group.broadcast(&rows).unwrap();
    assert_eq!(Vec::<f32>::try_from(group.rows_of(&rows)).unwrap(), [1.0, 2.0, 3.0]);
    assert!(group.mean([3.0, 4.0]).unwrap() == [3.0, 4.0] && group.agree(b"anything").unwrap());
    group.barrier().unwrap();
}

fn together(group: &Group) {
    let rank = group.rank() as f64;
    assert_eq!((group.world(), group.leads()), (2, rank == 0.0));
    let numbers = |tensor: &Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double)).unwrap();

    let mine = Tensor::from_slice(&[1.0f32, 10.0 * rank as f32]);
    group.average(&mine).unwrap();
    assert_eq!(numbers(&mine), [1.0, 5.0]);
    let mine = Tensor::from_slice(&[7 + group.rank() as i64]);
    group.broadcast(&mine).unwrap();
    assert_eq!(numbers(&mine), [7.0]);
    let error =
        group.start_sum(&Tensor::ones([2, 3], (Kind::Float, Device::Cpu)).transpose(0, 1)).unwrap_err();
    assert!(error.to_string().contains("contiguous"), "{error}");
    assert_eq!(group.mean([3.0, rank]).unwrap(), [3.0, 0.5]);
    assert!(group.agree(b"same").unwrap() && !group.agree(&[group.rank() as u8]).unwrap());
    assert_eq!(
        numbers(&group.rows_of(&Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5]))),
        [0.0, 2.0, 4.0].map(|row| row + rank)
    );

    // three variables in one buffer and two buckets; the second variable is in no loss
    let vs = nn::VarStore::new(Device::Cpu);
    let variables: Vec<Tensor> = [2, 1, 3]
        .iter()
        .map(|&count| {
            vs.root().add(&count.to_string(), Tensor::ones([count], (Kind::Float, Device::Cpu)), true)
        })
        .collect();
    let mut gradients = Tensor::zeros([6], (Kind::Float, Device::Cpu));
    let sums: Vec<Tensor> = variables.iter().map(|variable| variable.sum(Kind::Float)).collect();
    Tensor::stack(&sums, 0).sum(Kind::Float).backward();
    for (variable, (start, count)) in variables.iter().zip([(0, 2), (2, 1), (3, 3)]) {
        variable.grad().set_data(&gradients.narrow(0, start, count));
    }
    let (first, third) = (variables[0].shallow_clone(), variables[2].shallow_clone());
    let exchange = Exchange::new(group, &gradients, variables, 3).unwrap();
    for pass in 0..3 {
        let _ = gradients.zero_();
        let scale = f64::from(pass) + 1.0;
        // the first of two parts is not exchanged: only their sum is
        (first.sum(Kind::Float) * 2.0).backward();
        exchange.begin();
        ((first.sum(Kind::Float) * rank + third.sum(Kind::Float) * (1.0 - rank)) * scale).backward();
        exchange.finish().unwrap();
        let (first, third) = (2.0 + 0.5 * scale, 0.5 * scale);
        assert_eq!(numbers(&gradients), [first, first, 0.0, third, third, third], "pass {pass}");
    }
    drop(exchange);
    let _ = gradients.zero_();
    third.sum(Kind::Float).backward();
    assert_eq!(numbers(&gradients), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let short = Exchange::new(group, &gradients, vec![first], 3).unwrap_err().to_string();
    assert!(short.contains("2 numbers in the variables, 6"), "{short}");
    group.barrier().unwrap();
}

#[test]
fn two_processes_sum_average_and_exchange_gradients() {
    for child in start(2, &["together", "together"]) {
        let (printed, well) = end(child);
        assert!(well, "{printed}");
    }
}

#[test]
fn a_killed_process_ends_the_others_with_a_message() {
    let mut children = start(2, &["wait", "never come"]);
    let mut victim = children.pop().unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "connected"));
    victim.kill().unwrap();
    victim.wait().unwrap();
    let (printed, well) = end(children.pop().unwrap());
    assert!(well && printed.contains("process 0 of 2 lost the others, one of which ended"), "{printed}");
}

#[test]
fn a_process_that_hangs_ends_the_others_at_the_timeout() {
    let mut children = start(2, &["wait briefly", "never come"]);
    let hung = children.pop().unwrap();
    let (printed, well) = end(children.pop().unwrap());
    assert!(well && printed.contains("process 0 of 2 lost the others"), "{printed}");
    assert!(end(hung).1);
}

#[test]
fn a_process_that_nobody_joins_says_so() {
    let (printed, well) = end(start(2, &["alone"]).pop().unwrap());
    assert!(well && printed.contains("process 0 of 2 did not meet the others at 127.0.0.1:"), "{printed}");
}
