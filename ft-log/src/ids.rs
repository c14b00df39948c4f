//! Identities and indices. Each is a type of its own: a connection can't be mistaken for a listener.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this one. Running out is a bug, not a condition.
            #[must_use]
            pub const fn next(self) -> Self {
                match self.0.checked_add(1) {
                    Some(n) => Self(n),
                    None => panic!("identity space exhausted"),
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// Position of an entry in the log; the first entry has index 1.
    LogIndex(u64)
);
id!(
    /// Fencing number; grows by one at each change of primary.
    Term(u64)
);
id!(
    /// A total order of execution within a service: 0 is the service itself, others are fork children.
    DomainId(u16)
);
id!(
    /// A place in a domain's execution where it may notice the outside; counted from 1.
    InputPoint(u64)
);
id!(
    /// A TCP connection, numbered by the engine in order of acceptance.
    ConnId(u32)
);
id!(
    /// A listening socket, numbered by the shim in order of `listen`.
    ListenerId(u32)
);
id!(
    /// A pipe that crosses domains, numbered by the shim in order of creation.
    PipeId(u32)
);
