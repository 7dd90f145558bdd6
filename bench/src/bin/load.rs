//! The load process, which the bench starts: see [`griot_bench::load`].

fn main() -> anyhow::Result<()> {
    griot_bench::load::serve()
}
