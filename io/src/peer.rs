//! Who is at the other end of a connection, and how much of the server one address may take.
//!
//! Behind a proxy every connection comes from the proxy. What it says about whom it speaks for counts only if the proxy is
//! one that the server was told to trust: anybody can send the same header.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whom a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    /// It travelled encrypted, to us or to the proxy.
    pub(crate) secure: bool,
}

impl Peer {
    pub(crate) fn new(ip: IpAddr, secure: bool) -> Self {
        Self { ip: ip.to_canonical(), secure }
    }

    /// Whether it is one of these.
    pub(crate) fn within(self, proxies: &[IpNet]) -> bool {
        proxies.iter().any(|proxy| proxy.contains(&self.ip))
    }

    /// The one that a trusted proxy speaks for: the last address in its list that is no trusted proxy itself. What stands
    /// before that, the sender may have written.
    pub(crate) fn behind(self, proxies: &[IpNet], headers: &HeaderMap) -> Self {
        if !self.within(proxies) {
            return self;
        }
        let proto = headers.get_all(FORWARDED_PROTO).iter().next_back();
        let proto = proto.and_then(|proto| proto.to_str().ok()?.rsplit(',').next().map(str::trim));
        let secure = proto.map_or(self.secure, |proto| proto.eq_ignore_ascii_case("https"));
        let lists = headers.get_all(FORWARDED_FOR).iter().rev();
        let mut hops = lists.flat_map(|list| list.to_str().unwrap_or_default().rsplit(','));
        let mut ip = self.ip;
        while Self::new(ip, secure).within(proxies) {
            match hops.next().and_then(|hop| hop.trim().parse().ok()) {
                Some(before) => ip = before,
                None => break,
            }
        }
        Self::new(ip, secure)
    }
}

/// How many of something each address holds. Addresses of this machine hold as many as they like: all who share it are
/// one there.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    most: usize,
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of them. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held(Option<(Crowd, IpAddr)>);

impl Crowd {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: Arc::default() }
    }

    /// One more for this address, unless it has its share.
    pub(crate) fn enter(&self, ip: IpAddr) -> Option<Held> {
        if ip.is_loopback() {
            return Some(Held(None));
        }
        let whose = household(ip);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.get(&whose).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        held.insert(whose, count + 1);
        Some(Held(Some((self.clone(), whose))))
    }
}

impl Held {
    /// What is not counted.
    pub(crate) fn uncounted() -> Self {
        Self(None)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some((crowd, whose)) = self.0.take() else { return };
        let mut held = crowd.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&whose) {
            *count -= 1;
            if *count == 0 {
                held.remove(&whose);
            }
        }
    }
}

/// One subscriber of IPv6 has 2^64 addresses or more.
fn household(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_own_words() {
        let proxies: Vec<IpNet> = ["10.0.0.0/8", "127.0.0.1/32"].map(|net| net.parse().unwrap()).into();
        let ask = |from: &str, headers: &[(&str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
            }
            let Peer { ip, secure } = Peer::new(from.parse().unwrap(), false).behind(&proxies, &map);
            (ip.to_string(), secure)
        };
        let is = |ip: &str, secure| (ip.to_owned(), secure);
        let (list, proto) = ("x-forwarded-for", "x-forwarded-proto");
        assert_eq!(ask("1.2.3.4", &[(list, "9.9.9.9"), (proto, "https")]), is("1.2.3.4", false));
        assert_eq!(ask("10.1.1.1", &[(list, "9.9.9.9"), (proto, "https")]), is("9.9.9.9", true));
        assert_eq!(ask("10.1.1.1", &[(list, "6.6.6.6, 9.9.9.9")]), is("9.9.9.9", false));
        assert_eq!(ask("10.1.1.1", &[(list, "6.6.6.6, 9.9.9.9, 10.2.2.2")]), is("9.9.9.9", false));
        assert_eq!(ask("10.1.1.1", &[(list, "6.6.6.6"), (list, "9.9.9.9")]), is("9.9.9.9", false));
        assert_eq!(ask("::ffff:127.0.0.1", &[(list, "2001:db8::1")]), is("2001:db8::1", false));
        for unusable in ["", "unknown", "9.9.9.9:80", "9.9.9.9, "] {
            assert_eq!(ask("10.1.1.1", &[(list, unusable)]), is("10.1.1.1", false), "{unusable:?}");
        }
        assert_eq!(ask("10.1.1.1", &[(proto, "https, http")]), is("10.1.1.1", false), "the last hop's");
    }

    #[test]
    fn an_address_holds_its_share_and_gives_it_back() {
        let crowd = Crowd::new(2);
        let held = [crowd.enter(ip("1.2.3.4")), crowd.enter(ip("1.2.3.4"))];
        assert!(held.iter().all(Option::is_some) && crowd.enter(ip("1.2.3.4")).is_none());
        assert!(crowd.enter(ip("1.2.3.5")).is_some(), "others have their own");
        drop(held);
        assert!(crowd.held.lock().unwrap().is_empty());
        let neighbours = [crowd.enter(ip("2001:db8::1")), crowd.enter(ip("2001:db8::2"))];
        assert!(neighbours.iter().all(Option::is_some) && crowd.enter(ip("2001:db8::3")).is_none());
        assert!(crowd.enter(ip("2001:db8:0:1::1")).is_some());
        let here: Vec<_> = (0..9).map(|_| crowd.enter(ip("127.0.0.1"))).collect();
        assert!(here.iter().all(Option::is_some));
    }
}
