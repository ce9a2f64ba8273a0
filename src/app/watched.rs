//! Files that are watched for changes: by looking, which works on every file system and follows links that are swapped,
//! as Kubernetes does with mounted ConfigMaps.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// How often files are looked at.
pub const EVERY: Duration = Duration::from_secs(2);

/// What tells one version of a file from another without reading it: device, inode, length and time of change.
type Version = Option<(u64, u64, u64, i64, i64)>;

/// Some files, as they were when last looked at.
#[derive(Debug)]
pub struct Watched {
    files: Vec<(PathBuf, Version)>,
}

impl Watched {
    /// These files as they are now; one that is not there may come.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        let files = files.into_iter().map(|path| {
            let version = version(&path);
            (path, version)
        });
        Self { files: files.collect() }
    }

    /// Watches these from now on; those that were watched already, as they were when last looked at.
    pub fn follow(&mut self, files: Vec<PathBuf>) {
        let known = std::mem::take(&mut self.files);
        self.files = Self::new(files).files;
        for (path, seen) in &mut self.files {
            if let Some((_, version)) = known.iter().find(|(known, _)| known == path) {
                *seen = *version;
            }
        }
    }

    /// Waits until one is another than it was. What is half written is likely to be seen once more when it is whole.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            if self.look() {
                return;
            }
        }
    }

    /// Looks at once: whether one is another than it was.
    pub fn look(&mut self) -> bool {
        let mut changed = false;
        for (path, known) in &mut self.files {
            let now = version(path);
            changed |= now != *known;
            *known = now;
        }
        changed
    }
}

fn version(path: &std::path::Path) -> Version {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::write(&one, "a").expect("a file");
        let mut watched = Watched::new(vec![one.clone(), other.clone()]);
        assert!(!watched.look(), "nothing has changed");
        std::fs::write(&one, "another").expect("a file");
        std::fs::write(&other, "new").expect("a file");
        assert!(watched.look());
        assert!(!watched.look(), "it was seen");
        std::fs::write(&one, "a third").expect("a file");
        watched.follow(vec![one]);
        assert!(watched.look(), "what is followed on is compared with what was seen");
    }
}
