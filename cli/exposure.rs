//! Flags of `serve` for a server that others reach, and how callers show their token.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use acdit_io::{Access, IpNet, ServerConfig, Tls, Token};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use crate::output::Output;

/// The `--token` that asks for a new one.
const AUTO: &str = "auto";

/// Random bytes of a new token: 256 bits.
const NEW_TOKEN: usize = 32;

/// A secret between a server and its callers.
#[derive(Clone, Debug, Args)]
pub(crate) struct TokenArgs {
    /// Token that the server asks for; `serve --token auto` makes one and prints it. Other users of this machine see
    /// command lines: prefer --token-file, or the environment
    #[arg(long, value_name = "TOKEN", hide_default_value = true)]
    token: Option<Secret>,
    /// File with the token that the server asks for
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Text that is not printed.
#[derive(Clone)]
struct Secret(String);

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl TokenArgs {
    /// The token, if there is one.
    pub(crate) fn read(&self) -> anyhow::Result<Option<String>> {
        match (&self.token, &self.token_file) {
            (Some(_), Some(_)) => bail!("--token and --token-file: expected one of them"),
            (Some(Secret(token)), None) => Ok(Some(token.clone())),
            (None, Some(path)) => token_in(path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn token_in(path: &Path) -> anyhow::Result<String> {
    let named = || format!("--token-file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(named)?;
    let mode = std::fs::metadata(path).with_context(named)?.permissions().mode();
    if mode & 0o007 != 0 {
        tracing::warn!("{}: every user of this machine can read it", path.display());
    }
    let token = text.trim();
    Token::new(token).with_context(named)?;
    Ok(token.to_owned())
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse())
        .map_err(|_| "expected an address or a network such as 10.0.0.0/8".to_owned())
}

#[derive(Debug, Args)]
#[command(next_help_heading = "For other machines")]
pub(crate) struct ExposureArgs {
    #[command(flatten)]
    token: TokenArgs,
    /// Name under which a proxy or a DNS entry serves this, without a port for its default one; may be repeated
    #[arg(long, value_name = "NAME[:PORT]", value_delimiter = ',')]
    allow_host: Vec<String>,
    /// Other site whose pages may open WebSockets and send requests; may be repeated
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    allow_origin: Vec<String>,
    /// Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; may be repeated
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    trusted_proxy: Vec<IpNet>,
    /// Certificates to serve https:// and wss:// with, PEM, the server's own first
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Viewers at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_viewers: u16,
    /// Viewers from one address; this machine may have any number
    #[arg(long, value_name = "N", default_value_t = 32)]
    max_viewers_per_address: u16,
    /// Open connections; viewers are counted by --max-viewers
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_connections: u16,
    /// Open connections from one address; this machine and trusted proxies may have any number
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_connections_per_address: u16,
}

/// A server's exposure, read and checked.
pub(crate) struct Exposure {
    config: ServerConfig,
    /// A token that nobody knows yet.
    new_token: Option<String>,
}

impl ExposureArgs {
    /// Reads and checks everything, before a model is loaded.
    pub(crate) fn read(&self) -> anyhow::Result<Exposure> {
        let given = self.token.read()?;
        let new_token = (given.as_deref() == Some(AUTO)).then(|| {
            let bytes: [u8; NEW_TOKEN] = rand::random();
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        });
        let token = new_token.as_deref().or(given.as_deref());
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificates), Some(key)) => Some(Tls::from_files(certificates, key)?),
            (None, None) => None,
            _ => bail!("--tls-cert and --tls-key: expected both or neither"),
        };
        let access = Access {
            token: token.map(Token::new).transpose()?,
            hosts: self.allow_host.clone(),
            origins: self.allow_origin.clone(),
            proxies: self.trusted_proxy.clone(),
            tls,
        };
        access.check()?;
        let config = ServerConfig {
            max_viewers: self.max_viewers.into(),
            max_viewers_per_address: self.max_viewers_per_address.into(),
            max_connections: self.max_connections.into(),
            max_connections_per_address: self.max_connections_per_address.into(),
            access,
            ..ServerConfig::default()
        };
        Ok(Exposure { config, new_token })
    }
}

impl Exposure {
    /// Whether an address may be listened on.
    pub(crate) fn suits(&self, address: SocketAddr) -> anyhow::Result<()> {
        if self.config.access.token.is_none() && !address.ip().is_loopback() {
            let how = "give --token-file FILE or --token auto";
            return Err(anyhow::Error::from(acdit_io::Error::NotLoopback(address)).context(how));
        }
        let Access { token, hosts, proxies, .. } = &self.config.access;
        if token.is_none() && !(hosts.is_empty() && proxies.is_empty()) {
            tracing::warn!(
                "no token: whoever reaches the proxy steers the world, unless the proxy asks who they are"
            );
        }
        Ok(())
    }

    /// A server with it.
    pub(crate) fn config(&self) -> ServerConfig {
        self.config.clone()
    }

    /// Prints the address, and a token that was made for it: the only time that one is told.
    pub(crate) fn announce(&self, address: SocketAddr, output: Output) -> anyhow::Result<()> {
        let scheme = if self.config.access.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        match &self.new_token {
            None => output.print(&json!({ "address": url }), || format!("acdit-world: {url}")),
            Some(token) => {
                let text = || format!("acdit-world: {url}/?token={token}");
                output.print(&json!({ "address": url, "token": token }), text)
            }
        }
    }
}
