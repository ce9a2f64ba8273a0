//! What a verifier needs from a vendor, and what it got. Named here, judged in `verify`, fetched elsewhere.

/// An endorsement that a piece of evidence asks for, as data.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct EndorsementId {
    /// The short name under which it is stapled (`end/<name>`) and saved (`<name>.der`): `vcek`, `ask`, `crl`, …
    pub name: &'static str,
    /// Where the vendor's own service serves it, relative to the service's address; or a whole `https://` address where the
    /// vendor has it elsewhere. Names the item unmistakably.
    pub path: String,
}

impl EndorsementId {
    /// The name, at an item's own path, of the PEM chain that a service gives beside the item; an empty one where a service
    /// that should gave none. What is had from files has none.
    pub const ISSUER_CHAIN: &'static str = "issuer_chain";

    /// The address of the service that has it, and the path there: `service`, unless the path is a whole address.
    #[must_use]
    pub fn place<'a>(&'a self, service: &'a str) -> (&'a str, &'a str) {
        const SCHEME: &str = "https://";
        let host = self.path.strip_prefix(SCHEME).and_then(|rest| rest.find('/'));
        host.and_then(|host| self.path.split_at_checked(SCHEME.len().saturating_add(host))).unwrap_or((service, &self.path))
    }
}

/// One endorsement as received: an input, never an authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endorsement {
    /// The short name.
    pub name: String,
    /// Its media type as it came, which is not believed: what is read decides. Empty where nobody said.
    pub media_type: String,
    /// Not yet read. DER of a certificate or a list, or a vendor's signed document in the form of its platform.
    pub bytes: Vec<u8>,
}

impl Endorsement {
    /// The media type of a certificate in DER.
    pub const CERTIFICATE: &'static str = "application/pkix-cert";

    /// The media type of a revocation list in DER.
    pub const REVOCATION_LIST: &'static str = "application/pkix-crl";

    /// The media type of a signed JSON document with the PEM chain of its signer: CBOR `[body, chain]`.
    pub const SIGNED_JSON: &'static str = "application/vnd.portcullis.pcs-signed+cbor";
}

/// The endorsements at hand for one appraisal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Endorsements(Vec<Endorsement>);

impl Endorsements {
    /// Adds one. The first of a name counts: add the operator's before the peer's.
    pub fn push(&mut self, endorsement: Endorsement) {
        self.0.push(endorsement);
    }

    /// The bytes of the endorsement called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|endorsement| endorsement.name == name).map(|endorsement| endorsement.bytes.as_slice())
    }

    /// All of them, in order of precedence.
    pub fn iter(&self) -> impl Iterator<Item = &Endorsement> {
        self.0.iter()
    }
}

impl Extend<Endorsement> for Endorsements {
    fn extend<T: IntoIterator<Item = Endorsement>>(&mut self, endorsements: T) {
        self.0.extend(endorsements);
    }
}

impl FromIterator<Endorsement> for Endorsements {
    fn from_iter<T: IntoIterator<Item = Endorsement>>(endorsements: T) -> Self {
        Self(endorsements.into_iter().collect())
    }
}

impl IntoIterator for Endorsements {
    type IntoIter = std::vec::IntoIter<Endorsement>;
    type Item = Endorsement;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_at_the_platforms_service_unless_it_names_another() {
        let id = |path: &str| EndorsementId { name: "crl", path: path.to_owned() };
        assert_eq!(id("/vcek/v1/Genoa/crl").place("https://a.example"), ("https://a.example", "/vcek/v1/Genoa/crl"));
        assert_eq!(id("https://b.example/root.der").place("https://a.example"), ("https://b.example", "/root.der"));
        assert_eq!(id("https://b.example").place("https://a.example"), ("https://a.example", "https://b.example"));
    }
}
