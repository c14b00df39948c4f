//! Why there is no gate. Without one the service must not run: each text says what, why and what to do.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The host lacks something for good.
    #[error("this host cannot protect a service: {feature} is missing. {todo}")]
    Missing { feature: &'static str, todo: &'static str },
    #[error("the service interface `{name}` cannot be used: {why}")]
    Parent { name: String, why: String },
    #[error("the service address {address} cannot be used: {why}")]
    Address { address: String, why: String },
    #[error("packets cannot be queued: no iptables of this host takes an NFQUEUE rule. Install `iptables`, and have a kernel with CONFIG_NETFILTER_XT_TARGET_NFQUEUE and either CONFIG_NFT_COMPAT or CONFIG_IP_NF_FILTER. Tried: {tried}")]
    Rules { tried: String },
    #[error("{what} failed: {source}")]
    System { what: &'static str, source: io::Error },
}

impl GateError {
    pub fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
