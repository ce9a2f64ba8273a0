//! The tree that lets one quote speak for many sessions: RFC 6962 shape, SHA-384, labels of the protocol.

use super::Challenge;
use crate::crypto::sha384;
use crate::refusal::{Denied, Finding, Reason};

/// A tree's leaf or inner hash.
pub type Node = [u8; 48];

/// The most leaves one quote may speak for.
pub const MAX_SIZE: u64 = 65_536;

/// The proof that a leaf is in a batch: its place, the batch's size, the hashes beside its path from below.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proof {
    /// The leaf's place, from 0.
    pub index: u64,
    /// How many leaves the batch has.
    pub size: u64,
    /// The sibling hashes, the lowest first.
    pub path: Vec<Node>,
}

/// What a quote for a batch with this root carries.
#[must_use]
pub fn challenge(size: u64, root: &Node) -> Challenge {
    Challenge::of(&preimage(size, root))
}

/// The root of `leaves` and a proof for each, in their order. `None` when there are none or too many.
#[must_use]
pub fn build(leaves: &[Node]) -> Option<(Node, Vec<Proof>)> {
    let size = u64::try_from(leaves.len()).ok().filter(|size| (1..=MAX_SIZE).contains(size))?;
    let mut paths = vec![Vec::new(); leaves.len()];
    let root = subtree(leaves, &mut paths)?;
    let proofs = paths.into_iter().zip(0..).map(|(path, index)| Proof { index, size, path }).collect();
    Some((root, proofs))
}

/// The root that `leaf` and `proof` imply.
///
/// Establishes nothing about the root: compare the report data made from it.
///
/// # Errors
/// `batch_proof_invalid` when index, size and path length do not fit one another.
pub fn fold(leaf: &Node, proof: &Proof) -> Result<Node, Denied> {
    if !(1..=MAX_SIZE).contains(&proof.size) || proof.index >= proof.size {
        return Finding::new(
            Reason::BatchProofInvalid,
            "proof.index",
            format!("an index below a size of 1 to {MAX_SIZE}"),
            format!("index {} of {}", proof.index, proof.size),
        )
        .refuse();
    }
    let sides = sides(proof.index, proof.size);
    if sides.len() != proof.path.len() {
        return Finding::new(Reason::BatchProofInvalid, "proof.path", format!("{} hashes", sides.len()), proof.path.len().to_string()).refuse();
    }
    Ok(sides.iter().zip(&proof.path).fold(*leaf, |node, (side, sibling)| match side {
        Side::Left => parent(&node, sibling),
        Side::Right => parent(sibling, &node),
    }))
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// On which side of each of its ancestors' splits the leaf lies, the lowest first.
fn sides(index: u64, size: u64) -> Vec<Side> {
    let (mut index, mut size, mut sides) = (index, size, Vec::new());
    while size > 1 {
        let left = split(size);
        if index < left {
            sides.push(Side::Left);
            size = left;
        } else {
            sides.push(Side::Right);
            index = index.saturating_sub(left);
            size = size.saturating_sub(left);
        }
    }
    sides.reverse();
    sides
}

/// The largest power of two below `size`, for `size` of 2 and more.
fn split(size: u64) -> u64 {
    1_u64.checked_shl(size.saturating_sub(1).ilog2()).unwrap_or(1)
}

fn subtree(leaves: &[Node], paths: &mut [Vec<Node>]) -> Option<Node> {
    match leaves {
        [] => None,
        [leaf] => Some(*leaf),
        _ => {
            let left = usize::try_from(split(u64::try_from(leaves.len()).ok()?)).ok()?;
            let (left_leaves, right_leaves) = leaves.split_at_checked(left)?;
            let (left_paths, right_paths) = paths.split_at_mut_checked(left)?;
            let left = subtree(left_leaves, left_paths)?;
            let right = subtree(right_leaves, right_paths)?;
            left_paths.iter_mut().for_each(|path| path.push(right));
            right_paths.iter_mut().for_each(|path| path.push(left));
            Some(parent(&left, &right))
        }
    }
}

fn parent(left: &Node, right: &Node) -> Node {
    sha384(&[&[1], left, right])
}

fn preimage(size: u64, root: &Node) -> Vec<u8> {
    let mut input = super::binding::length_prefixed(b"PORTCULLIS/1 batch-root");
    input.extend(size.to_be_bytes());
    input.extend(super::binding::length_prefixed(root));
    input
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn leaves(n: u8) -> Vec<Node> {
        (0..n).map(|i| sha384(&[&[i]])).collect()
    }

    #[test]
    fn every_leaf_of_every_small_batch_folds_to_the_root() {
        for n in 1..40 {
            let leaves = leaves(n);
            let (root, proofs) = build(&leaves).unwrap();
            for (leaf, proof) in leaves.iter().zip(&proofs) {
                assert_eq!(fold(leaf, proof).unwrap(), root);
            }
        }
        assert!(build(&[]).is_none());
    }

    #[test]
    fn a_proof_of_the_wrong_shape_is_refused() {
        let leaves = leaves(3);
        let (root, proofs) = build(&leaves).unwrap();
        let refused = |proof: Proof| fold(&leaves[0], &proof).unwrap_err().reason() == Reason::BatchProofInvalid;
        let good = &proofs[0];
        assert!(refused(Proof { path: good.path[1..].to_vec(), ..good.clone() }));
        assert!(refused(Proof { index: 3, ..good.clone() }));
        assert!(refused(Proof { size: 0, ..good.clone() }));
        assert!(refused(Proof { size: MAX_SIZE + 1, ..good.clone() }));
        assert!(refused(Proof { size: 5, ..good.clone() }));
        // A size that implies the same path length gives the same root: the report data tells them apart.
        let lied = Proof { size: 4, ..good.clone() };
        assert_eq!(fold(&leaves[0], &lied).unwrap(), root);
        assert_ne!(challenge(4, &root), challenge(3, &root));
    }
}
