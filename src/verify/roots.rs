//! Trust anchors: the vendors' compiled in, others only where a policy names them.

/// Whose root an anchor is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The simulator's: its keys are published, anybody can forge evidence under it.
    Simulator,
    /// The hardware vendor's.
    Vendor,
}

impl Origin {
    /// Its spelling in logs and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
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
    /// Which of the platform's roots it is: the product's name for SEV-SNP.
    pub product: &'static str,
    /// Its DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// Whose it is.
    pub origin: Origin,
}

/// The roots that are trusted.
#[derive(Clone, Debug)]
pub struct TrustAnchors(Vec<Anchor>);

impl TrustAnchors {
    /// The vendors' roots.
    #[must_use]
    pub fn vendor() -> Self {
        let amd = |product, spki: &[u8]| Anchor { platform: "sev-snp", product, spki: spki.to_vec(), origin: Origin::Vendor };
        Self(vec![
            amd("genoa", include_bytes!("roots/ark-genoa.spki.der")),
            amd("milan", include_bytes!("roots/ark-milan.spki.der")),
            amd("turin", include_bytes!("roots/ark-turin.spki.der")),
        ])
    }

    /// These and `more`, for a policy that names them.
    #[must_use]
    pub fn and(mut self, more: impl IntoIterator<Item = Anchor>) -> Self {
        self.0.extend(more);
        self
    }

    /// The roots of a platform's product.
    pub fn of<'a>(&'a self, platform: &'a str, product: &'a str) -> impl Iterator<Item = &'a Anchor> {
        self.0.iter().filter(move |anchor| anchor.platform == platform && anchor.product == product)
    }
}
