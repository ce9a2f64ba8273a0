//! Azure confidential VMs: the HCL report from the vTPM's memory, a quote of the vTPM over our challenge, and what the
//! host's metadata service adds.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::imds::{self, Imds};
use super::kernel::Driver;
use super::tpm::{DEVICE, Tpm};
use super::{Attester, Detected, Places, Provider, Quote, Sign, Unavailable};
use crate::evidence::hcl::{HclReport, Kind, MEDIA_TYPE, TD_QUOTE, TDREPORT_SIZE};
use crate::evidence::tpm::{Extras, Hash, Member};
use crate::evidence::{Auxiliary, Challenge, Endorsements, Evidence, intel, tpm};

/// The name under which configuration knows this way.
const PROVIDER: &str = "azure-vtpm";

/// The NV index with the HCL report.
pub const REPORT_INDEX: u32 = 0x0140_0001;
/// The persistent handle of the attestation key that the HCL report names.
pub const KEY_HANDLE: u32 = 0x8100_0003;

/// How long what the metadata service said is used, and how long a failure of it is not asked about again.
const KEPT: Duration = Duration::from_secs(3600);
const PAUSE: Duration = Duration::from_secs(60);

/// The provider of one kind of hardware behind the paravisor.
#[derive(Debug)]
pub struct Azure {
    /// The platform's name.
    pub platform: &'static str,
    /// What the HCL report must hold.
    pub kind: Kind,
    /// The cloud's metadata service.
    pub imds: SocketAddr,
}

/// TDX behind the paravisor.
pub static TDX: Azure = Azure { platform: "azure-tdx", kind: Kind::Tdx, imds: imds::ADDRESS };

/// SEV-SNP behind the paravisor.
pub static SNP: Azure = Azure { platform: "azure-snp", kind: Kind::Snp, imds: imds::ADDRESS };

impl Provider for Azure {
    fn names(&self) -> &'static [&'static str] {
        &[PROVIDER]
    }

    fn detect(&self, places: &Places) -> Vec<Detected> {
        let outcome = AzureAttester::open(self, places).map(|attester| Box::new(attester) as Box<dyn Attester>);
        vec![Detected { provider: PROVIDER, outcome }]
    }

    fn signs(&self, places: &Places) -> Vec<Sign> {
        // Every machine of Azure's has this tag: only the report in the TPM says that it is a confidential one.
        places.kernel().firmware_says("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77").into_iter().collect()
    }
}

/// The driver of a TPM that a hypervisor offers.
const TPM: Driver = Driver { module: "", device: "class/tpmrm/tpmrm0", since: (4, 12) };

#[derive(Debug)]
struct AzureAttester {
    platform: &'static str,
    kind: Kind,
    tpm: Tpm,
    imds: Imds,
    certification: Mutex<Option<(Instant, Endorsements)>>,
    /// The TD quote, with the TDREPORT that it is of and until when it is used.
    td_quote: Mutex<Option<(Instant, Vec<u8>, Auxiliary)>>,
}

impl AzureAttester {
    fn open(&Azure { platform, kind, imds }: &Azure, places: &Places) -> Result<Self, Unavailable> {
        let path = places.of(DEVICE);
        let tpm = Tpm::open(&path).map_err(|unavailable| places.kernel().explain_device(unavailable, &path, TPM))?;
        let attester = Self { platform, kind, tpm, imds: Imds(imds), certification: Mutex::default(), td_quote: Mutex::default() };
        attester.report()?;
        attester.tpm.public(KEY_HANDLE)?;
        if kind == Kind::Tdx {
            // Without the metadata service there is no quote: better told now. It is kept for the first that is needed.
            attester.td_quote()?;
        }
        Ok(attester)
    }

    /// The HCL report as it is now, without the zeros behind it.
    fn report(&self) -> Result<Vec<u8>, Unavailable> {
        let content = self.tpm.nv(REPORT_INDEX)?;
        let report = HclReport::parse(&content).map_err(|denied| self.unfit(denied.to_string()))?;
        if report.kind != self.kind {
            return Err(self.unfit(format!("a report of {} hardware, not {}", report.kind.name(), self.kind.name())));
        }
        Ok(HclReport { padding: 0, ..report }.encode())
    }

    /// A TD quote of the TDREPORT in the HCL report as it is now. Without one there is no evidence.
    fn td_quote(&self) -> Result<Auxiliary, Unavailable> {
        let report = HclReport::parse(&self.report()?).map_err(|denied| self.unfit(denied.to_string()))?;
        let tdreport = report.hardware[..TDREPORT_SIZE].to_vec();
        let mut kept = self.td_quote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((until, of, quote)) = &*kept
            && Instant::now() < *until
            && *of == tdreport
        {
            return Ok(quote.clone());
        }
        let quote = Auxiliary { label: TD_QUOTE.to_owned(), media_type: intel::MEDIA_TYPE.to_owned(), bytes: self.imds.td_quote(&tdreport)? };
        *kept = Some((Instant::now() + KEPT, tdreport, quote.clone()));
        Ok(quote)
    }

    fn unfit(&self, why: String) -> Unavailable {
        Unavailable {
            what: format!("{PROVIDER}, NV index {REPORT_INDEX:#x}"),
            why,
            fix: "this is no Azure confidential VM of this kind, or its paravisor is newer than this program".to_owned(),
            transient: false,
        }
    }

    /// What the metadata service says of this machine's chip; nothing when it does not answer, for verifiers may know it.
    fn certification(&self) -> Endorsements {
        let mut kept = self.certification.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((until, endorsements)) = &*kept
            && Instant::now() < *until
        {
            return endorsements.clone();
        }
        let (endorsements, time) = match self.imds.certification() {
            Ok(endorsements) => (endorsements, KEPT),
            Err(unavailable) => {
                warn!(%unavailable, "no certificate of this machine's chip is stapled");
                (Endorsements::default(), PAUSE)
            }
        };
        *kept = Some((Instant::now() + time, endorsements.clone()));
        endorsements
    }
}

impl Attester for AzureAttester {
    fn platform(&self) -> &'static str {
        self.platform
    }

    fn provider(&self) -> &'static str {
        PROVIDER
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let mut evidence = Evidence::new(MEDIA_TYPE, self.report()?);
        let quoted = self.tpm.quote(KEY_HANDLE, &challenge.short, Hash::Sha256)?;
        let bytes = Member::encode(&quoted.attest, &quoted.signature, &quoted.pcrs, &Extras::default());
        evidence.auxiliary.push(Auxiliary { label: "vtpm".to_owned(), media_type: tpm::MEDIA_TYPE.to_owned(), bytes });
        let endorsements = match self.kind {
            Kind::Snp => self.certification(),
            Kind::Tdx => Endorsements::default(),
        };
        Ok(Quote { evidence, endorsements })
    }

    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        match self.kind {
            Kind::Snp => Ok(Vec::new()),
            Kind::Tdx => Ok(vec![self.td_quote()?]),
        }
    }
}
