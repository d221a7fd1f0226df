//! A number of the whole tree, kept up to date change by change: equal trees have equal ones, and trees that
//! differ have different ones but by chance.
//!
//! It is a sum over all znodes of what each hashes to, so that a change takes its znode's old part out and puts
//! the new one in (Bellare and Micciancio's AdHash, 1997; ZooKeeper's `DigestCalculator` does the same, with
//! other hashes). The invariant: it follows from the znodes alone, not from their history. Nothing here is
//! secret or safe from forgery: it finds replicas that have come to differ.

use super::znode::Znode;

const FIRST: u64 = 0xd6e8_feb8_6659_fd93;
const SECOND: u64 = 0x9e37_79b9_7f4a_7c15;
/// One for each number of a stat.
const FACTORS: [u64; 8] = [
    0x9ddf_ea08_eb38_2d69,
    0xc3a5_c85c_97cb_3127,
    0xb492_b66f_be98_f273,
    0x9ae1_6a3b_2f90_404f,
    0xff51_afd7_ed55_8ccd,
    0xc4ce_b9fe_1a85_ec53,
    0x87c3_7b91_1142_53d5,
    0x4cf5_ad43_2745_937f,
];

/// Stands for a path in the parts of its znode.
pub(super) fn of_path(path: &str) -> u64 {
    hash(path.as_bytes())
}

/// The part of a znode's data.
pub(super) fn of_data(path: u64, data: &[u8]) -> u64 {
    mix(path ^ hash(data).wrapping_mul(FIRST))
}

/// The part of everything else but its ACL, of which a replica knows another number than the others:
/// `aversion` stands for it.
pub(super) fn of_stat(path: u64, znode: &Znode) -> u64 {
    let pair = |high: i32, low: i32| (high as u32 as u64) << 32 | u64::from(low as u32);
    let numbers = [
        znode.czxid.0,
        znode.mzxid.0,
        znode.pzxid.0,
        znode.ctime_ms as u64,
        znode.mtime_ms as u64,
        znode.owner.as_raw() as u64,
        pair(znode.version, znode.cversion),
        znode.aversion as u32 as u64,
    ];
    // Each is multiplied by itself, which a processor does for several at once.
    let sum = numbers
        .iter()
        .zip(FACTORS)
        .fold(0_u64, |sum, (number, factor)| {
            sum.wrapping_add((number ^ number >> 32).wrapping_mul(factor))
        });
    mix(path.wrapping_mul(SECOND) ^ sum)
}

/// Both.
pub(super) fn of(znode: &Znode) -> u64 {
    let path = of_path(znode.path.as_str());
    of_data(path, &znode.data).wrapping_add(of_stat(path, znode))
}

/// Sixteen bytes at a time, by a multiplication whose halves are folded onto each other. A CRC would take two
/// or three times as long for a hundred bytes; the hashes of hash tables are free to change with their crates,
/// and two replicas may be of two builds.
fn hash(bytes: &[u8]) -> u64 {
    let step = |state: u64, block: &[u8; 16]| {
        let block = u128::from_le_bytes(*block);
        let (low, high) = (block as u64, (block >> 64) as u64);
        let product = u128::from(low ^ state) * u128::from(high ^ SECOND);
        product as u64 ^ (product >> 64) as u64
    };
    let mut state = bytes.len() as u64 ^ FIRST;
    let mut rest = bytes;
    while let Some((block, behind)) = rest.split_first_chunk() {
        state = step(state, block);
        rest = behind;
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    step(state, &last)
}

fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 32).wrapping_mul(FIRST);
    let number = (number ^ number >> 29).wrapping_mul(SECOND);
    number ^ number >> 32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Owner, Tree, Znode};
    use crate::ids::{SessionId, Zxid};
    use crate::path::ZnodePath;

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for path in paths {
            let path = ZnodePath::parse(path).unwrap();
            tree.insert(Znode::created(path, b"data", Zxid(7), 9, Owner::NONE, 0));
        }
        tree
    }

    #[test]
    fn it_follows_from_the_znodes_and_not_from_how_they_came_to_be() {
        let (one, mut other) = (tree(&["/a", "/b"]), tree(&["/b", "/a"]));
        assert_eq!(one.digest(), other.digest());
        let savepoint = other.savepoint();
        other.set_data("/a", Zxid(7), Arc::from(&b"other"[..]), |_| {});
        other.remove("/b", Zxid(7));
        assert_ne!(one.digest(), other.digest());
        other.rollback(savepoint);
        assert_eq!(one.digest(), other.digest());
        assert_eq!(other.check(), Ok(()));
    }

    #[test]
    fn it_is_the_same_in_every_build() {
        let texts = [
            "",
            "/",
            "/locks/a",
            "0123456789abcdef",
            "0123456789abcdef0123456789",
        ];
        let found = texts.map(|text| super::hash(text.as_bytes()));
        let known = [
            14_544_503_408_999_129_173,
            14_336_782_087_934_295_541,
            3_317_806_240_326_245_502,
            15_803_703_597_276_438_713,
            3_561_384_437_232_320_123,
        ];
        assert_eq!(found, known);
        assert_eq!(tree(&["/a", "/a/b"]).digest(), 13_477_720_407_713_007_960);
    }

    #[test]
    fn whatever_of_a_znode_changes_it_changes_too() {
        let mut tree = tree(&["/a"]);
        let mut seen = vec![tree.digest()];
        let mut see = |tree: &Tree| {
            assert!(!seen.contains(&tree.digest()));
            seen.push(tree.digest());
        };
        for change in [
            (|znode| znode.version += 1) as fn(&mut Znode),
            |znode| znode.aversion += 1,
            |znode| znode.mzxid = Zxid(8),
            |znode| znode.mtime_ms += 1,
            |znode| znode.ctime_ms += 1,
            |znode| znode.czxid = Zxid(1),
            |znode| znode.owner = Owner::ephemeral(SessionId(1)),
        ] {
            tree.update("/a", Zxid(8), change);
            see(&tree);
        }
        tree.set_data("/a", Zxid(8), Arc::from(&b"date"[..]), |_| {});
        see(&tree);
        // Data that two znodes have exchanged.
        let mut exchanged = [["x", "y"], ["y", "x"]].map(|data| {
            let mut tree = self::tree(&["/a", "/b"]);
            for (path, data) in ["/a", "/b"].into_iter().zip(data) {
                tree.set_data(path, Zxid(7), Arc::from(data.as_bytes()), |_| {});
            }
            tree.digest()
        });
        exchanged.sort_unstable();
        assert_ne!(exchanged[0], exchanged[1]);
    }
}
