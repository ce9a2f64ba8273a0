//! Trust anchors: the vendors' compiled in, others only where a policy names them.

/// Whose root an anchor is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The operator's, named in a policy (`keys`): for platforms whose vendors have no public root.
    Operator,
    /// The simulator's: its keys are published, anybody can forge evidence under it.
    Simulator,
    /// The hardware vendor's.
    Vendor,
}

impl Origin {
    /// Evidence is no more genuine than its least genuine part.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Simulator, _) | (_, Self::Simulator) => Self::Simulator,
            (Self::Operator, _) | (_, Self::Operator) => Self::Operator,
            (Self::Vendor, Self::Vendor) => Self::Vendor,
        }
    }

    /// Its spelling in logs and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Simulator => "simulator",
            Self::Vendor => "vendor",
        }
    }
}

/// One root key.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// The platform it is for.
    pub platform: &'static str,
    /// Which of the platform's roots it is: the product's name for SEV-SNP, a device's for an operator's key.
    pub name: String,
    /// Its DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// Whose it is.
    pub origin: Origin,
}

/// The roots that are trusted.
#[derive(Clone, Debug)]
pub struct TrustAnchors(Vec<Anchor>);

impl TrustAnchors {
    /// The roots of a platform that are called `name`.
    pub fn of<'a>(&'a self, platform: &'a str, name: &'a str) -> impl Iterator<Item = &'a Anchor> {
        self.of_platform(platform).filter(move |anchor| anchor.name == name)
    }

    /// The roots of a platform.
    pub fn of_platform<'a>(&'a self, platform: &'a str) -> impl Iterator<Item = &'a Anchor> {
        self.0.iter().filter(move |anchor| anchor.platform == platform)
    }
}

impl FromIterator<Anchor> for TrustAnchors {
    fn from_iter<T: IntoIterator<Item = Anchor>>(anchors: T) -> Self {
        Self(anchors.into_iter().collect())
    }
}
