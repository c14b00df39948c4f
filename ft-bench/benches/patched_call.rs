//! `cargo bench -p ft-bench`: a patched call and a direct one.

use criterion::{Criterion, criterion_group, criterion_main};
use ft_patched_call::Site;

fn calls(c: &mut Criterion) {
    let site = Site::new().expect("a page");
    c.bench_function("patched call", |b| b.iter(|| site.patched()));
    c.bench_function("direct call", |b| b.iter(|| site.direct()));
}

criterion_group!(benches, calls);
criterion_main!(benches);
