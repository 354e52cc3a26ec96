//! When the kernel's own sum of a super-packet's headers is taken, against sums worked out by hand.
use agent_ebpf_parse::size::with_kernel_sum;

/// `segments` of 1000 bytes of data with 40 bytes of headers, and what the kernel has summed.
fn bytes(segments: u32, summed_per_segment: u32, link_len: u32) -> u64 {
    with_kernel_sum(u64::from(segments) * 1040, segments, segments * (1000 + summed_per_segment), link_len)
}

#[test]
fn a_changed_link_layer_changes_nothing() {
    for segments in [1, 2, 3, 44, 500] {
        for (before, now) in [(14, 14), (14, 18), (14, 26), (18, 14), (26, 14), (18, 18), (0, 0)] {
            assert_eq!(bytes(segments, 40 + before, now), u64::from(segments) * 1040, "{segments}, {before} to {now}");
        }
    }
}

#[test]
fn inner_headers_that_only_the_kernel_knows_count() {
    for segments in [2, 3, 44, 500] {
        // The first segment's inner headers were taken for data, so the kernel has more only from the second on.
        for inner in [28, 40, 60] {
            let all = segments * (1000 + 28 + inner);
            let without = u64::from(all - (segments - 1) * inner);
            assert_eq!(
                with_kernel_sum(without, segments, all + 14 * segments, 14),
                u64::from(all),
                "{segments}, {inner}"
            );
        }
    }
}

#[test]
fn no_sum_is_no_help() {
    assert_eq!(with_kernel_sum(3240, 4, 0, 14), 3240);
    assert_eq!(with_kernel_sum(u64::from(u32::MAX), u32::MAX, 0, u32::MAX), u64::from(u32::MAX));
}
