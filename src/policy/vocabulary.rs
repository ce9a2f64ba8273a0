//! The words a platform adds to policy files: one table per platform, read by the loader, the appraisal and the docs.

use crate::refusal::Reason;

/// A platform's policy keys.
#[derive(Debug)]
pub struct Vocabulary {
    /// The platform's name, the value of `tee`.
    pub tee: &'static str,
    /// The keys, the most telling first: findings are reported in this order.
    pub fields: &'static [Field],
    /// The keys that name single machines. An entry with one of them says who the peer is, as `session-mutual` wants.
    pub machine: &'static [&'static str],
    /// What the `name` of an operator's key is on this platform; `None` where the vendor's roots are enough.
    pub operator_key: Option<&'static str>,
    /// Keys that loosen an entry and what each loosens. All start with `insecure_`.
    pub loosening: &'static [Loosening],
}

/// Two tables as one, for a platform whose evidence contains another's. `N` is the sum of their lengths.
///
/// # Panics
/// While compiling, when `N` is another number or `first` is empty.
#[must_use]
#[allow(clippy::panic, reason = "a table that is wrong does not compile")]
pub const fn both<T: Copy, const N: usize>(first: &[T], second: &[T]) -> [T; N] {
    assert!(first.len().saturating_add(second.len()) == N, "N is the sum of the lengths");
    let [fill, ..] = first else { panic!("the first table is empty") };
    let mut all = [*fill; N];
    let (head, tail) = all.split_at_mut(first.len());
    head.copy_from_slice(first);
    tail.copy_from_slice(second);
    all
}

/// A key that loosens an entry.
#[derive(Clone, Copy, Debug)]
pub struct Loosening {
    /// The key; starts with `insecure_`.
    pub key: &'static str,
    /// What it loosens.
    pub doc: &'static str,
    /// How it is written.
    pub written: Written,
}

/// How a loosening key is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    /// A text that says why, without which no entry of the platform is read: it is off unless somebody turns it on.
    Needed,
    /// `true`.
    True,
    /// A text that says why.
    Why,
}

/// One policy key.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The key in the file: the vendor's field name.
    pub key: &'static str,
    /// What it constrains, in one or two sentences.
    pub doc: &'static str,
    /// What is looked at and how.
    pub rule: Rule,
    /// What holds when the key is absent.
    pub unset: Unset,
    /// The code of a mismatch; flags may have their own.
    pub reason: Reason,
    /// Whether it holds even when nothing is pinned (`verify` without a policy).
    pub always: Always,
}

/// Whether a field is part of being genuine, or of being what the operator expects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Always {
    /// Its default holds without any policy.
    Genuine,
    /// It is judged only under a policy.
    Policy,
    /// A reference value: judged only under a policy, and what `observe` mode lets pass.
    Reference,
}

/// What holds when a key is absent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unset {
    /// The file is refused when this other key is there, and the claim is not judged when it is not.
    Beside {
        /// The other key.
        key: &'static str,
    },
    /// The rule's own default value.
    Default,
    /// The file is refused, unless this other key is there, or this loosening key is written.
    Instead {
        /// The key that says it in another way.
        of: &'static str,
        /// The loosening key.
        unless: &'static str,
    },
    /// The file is refused, unless this loosening key is written.
    Refused {
        /// The loosening key.
        unless: &'static str,
    },
    /// The claim is reported and not judged.
    Unjudged,
}

/// How a field's value is written and compared.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Octets: a hex string or `{ "any_of": [hex, …] }`; the claim equals one of them.
    Bytes {
        /// The claim.
        claim: &'static str,
        /// Its length in octets.
        length: usize,
        /// Whether an all-zero value may be pinned.
        zero: Zero,
        /// A claim that must be 1 for this one to mean anything.
        guarded_by: Option<&'static str>,
        /// Another key of the entry without which this one means nothing.
        beside: Option<&'static str>,
    },
    /// Parts of the firmware: a list of `{ "type": text, "measurement": hex, "signer": hex }`, `type` left out where the
    /// evidence has none. Every part of the claim is one of them; every type of them is in the claim, and each without a type.
    Components {
        /// The claim: a list whose items have `type`, `measurement` and `signer`.
        claim: &'static str,
    },
    /// A digest whose length its algorithm decides, 32, 48 or 64 octets; written and compared as `Bytes`.
    Digest {
        /// The claim.
        claim: &'static str,
        /// Whether an all-zero value may be pinned.
        zero: Zero,
    },
    /// Bits by name: `{ "name": true | false, … }`.
    Flags {
        /// The claim.
        claim: &'static str,
        /// The bits that have names.
        flags: &'static [Flag],
    },
    /// A duration; the claim, seconds since 1970, is no older and not from the future.
    MaxAge {
        /// The claim.
        claim: &'static str,
        /// The default, in seconds.
        default: u64,
        /// The longest that may be written, in seconds.
        most: u64,
    },
    /// Texts that must all be among the claim's.
    Includes {
        /// The claim: several words.
        claim: &'static str,
    },
    /// A bit mask that must be set in the claim: `"0x…"`.
    Mask {
        /// The claim.
        claim: &'static str,
    },
    /// A number; the claim is at least that.
    Minimum {
        /// The claim.
        claim: &'static str,
        /// Another key of the entry without which this one means nothing.
        beside: Option<&'static str>,
    },
    /// Numbers; the claim is one of them.
    Numbers {
        /// The claim.
        claim: &'static str,
        /// The default.
        default: &'static [u64],
    },
    /// Registers by name: `{ "0": hex, "4": { "any_of": [hex, …] } }`; the named ones are judged, at least one is named.
    Registers {
        /// The claim: a map of register name to octets.
        claim: &'static str,
        /// Their length in octets.
        length: usize,
        /// The registers there are.
        names: &'static [&'static str],
    },
    /// Whether the claim must be there: `true` or `false`, which is also the default.
    Required {
        /// The claim.
        claim: &'static str,
    },
    /// A number that grows with time; the claim is at least the shipped one of the moment, and at least what is written.
    Rising {
        /// The claim.
        claim: &'static str,
        /// The shipped numbers, oldest first.
        floors: &'static [RisingFloor],
        /// The key by which a written number stands for the shipped one, even where it is lower.
        lowered_by: &'static str,
    },
    /// Two claims are equal. Only `true` may be written; the key loosens it.
    Same {
        /// The claim.
        claim: &'static str,
        /// The one it must equal.
        other: &'static str,
        /// The loosening key.
        loosened_by: &'static str,
    },
    /// Security versions per product: `{ "genoa": { "snp": 22, … }, … }`; the claims are at least those.
    Tcb {
        /// The claims it is applied to, each a map of components.
        claims: &'static [TcbClaims],
        /// The claim that names the product.
        product: &'static str,
        /// The products with their shipped floors.
        products: &'static [Product],
        /// The key by which floors below the shipped ones are written.
        lowered_by: &'static str,
    },
    /// The vendor's word on a machine's firmware: `UpToDate`, or one that is tolerated until a day, with the advisories that
    /// are: `[{ "status": WORD, "advisories": [ID, …], "until": TIME }, …]`.
    TcbStatus {
        /// The claim with the word.
        claim: &'static str,
        /// The claim with the advisories.
        advisories: &'static str,
        /// The claim with what the machine lacks, if it lacks anything.
        short: &'static str,
        /// The word that is always accepted.
        good: &'static str,
        /// The words that may be tolerated.
        tolerable: &'static [&'static str],
    },
    /// A dotted version; the claims are at least that.
    Version {
        /// The claims it is applied to.
        claims: &'static [&'static str],
        /// The default.
        default: &'static [u64],
        /// The key by which a lower version than the default is written.
        lowered_by: &'static str,
    },
    /// Words; the claim is one of them. A word of `guarded` needs its loosening key beside it.
    Words {
        /// The claim; when it is absent from the evidence, `absent` decides.
        claim: &'static str,
        /// All words there are; empty when any text may be written.
        known: &'static [&'static str],
        /// The default; empty for none.
        default: &'static [&'static str],
        /// Words that need a loosening key: word, key.
        guarded: &'static [(&'static str, &'static str)],
        /// Words that need another field of the entry to be set: word, field.
        needs: &'static [(&'static str, &'static str)],
        /// Whether evidence without the claim passes.
        optional: bool,
    },
}

/// From when on a number is the least.
#[derive(Clone, Copy, Debug)]
pub struct RisingFloor {
    /// The moment, in seconds since 1970.
    pub from: u64,
    /// The number.
    pub number: u64,
}

impl RisingFloor {
    /// The number of `floors` that holds at a moment; the first before any.
    #[must_use]
    pub fn at(floors: &[Self], now: u64) -> u64 {
        let begun = floors.iter().filter(|floor| floor.from <= now).max_by_key(|floor| floor.from);
        begun.or(floors.first()).map_or(0, |floor| floor.number)
    }
}

impl Rule {
    /// [`Rule::Bytes`] that mean something by themselves.
    #[must_use]
    pub const fn bytes(claim: &'static str, length: usize, zero: Zero) -> Self {
        Self::Bytes { claim, length, zero, guarded_by: None, beside: None }
    }
}

/// Whether zeros may be pinned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Zero {
    /// Zero is a value like any other.
    Allowed,
    /// All-zero means "not set" to the hardware; pinning it is refused at load.
    Refused,
}

/// A named bit.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name in the file.
    pub key: &'static str,
    /// Its place, 0 the lowest.
    pub bit: u32,
    /// What it means.
    pub doc: &'static str,
    /// What `true` and `false` say.
    pub meaning: Meaning,
    /// The code of a mismatch.
    pub reason: Reason,
    /// Whether its default is part of being genuine.
    pub always: Always,
}

/// What a flag's `true` and `false` say. Either way the stricter word constrains and the other does not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meaning {
    /// A weakening bit: `false` requires it clear, `true` lets it be set. The default, and the loosening key that
    /// stands in for a bare `true` where setting it is unsafe.
    Weakens {
        /// The value when unset.
        default: bool,
        /// The key that must be written in place of `true`.
        unless: Option<&'static str>,
    },
    /// A strengthening bit: `true` requires it, `false` does not care. The default, and the loosening key that stands in
    /// for a bare `false`.
    Strengthens {
        /// The value when unset.
        default: bool,
        /// The key that must be written in place of `false`.
        unless: Option<&'static str>,
    },
}

/// A TCB claim and its name in findings.
#[derive(Clone, Copy, Debug)]
pub struct TcbClaims {
    /// The claim: a map of component name to number.
    pub claim: &'static str,
    /// How findings call it.
    pub field: &'static str,
}

/// A product with its TCB components.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Its name in policy files.
    pub name: &'static str,
    /// Its components with their shipped floors.
    pub components: &'static [Component],
}

/// One component of a product's TCB.
#[derive(Clone, Copy, Debug)]
pub struct Component {
    /// Its name in policy files.
    pub key: &'static str,
    /// Its name in claims.
    pub claim: &'static str,
    /// The least value accepted when the policy says nothing.
    pub floor: u8,
}
