//! How guests are compiled and where they live.

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::limits::{MEMORY_BYTES_MAX, STACK_BYTES_MAX, TABLE_ELEMENTS_MAX};

/// An engine with a pool of `instances_max` instances. The pool is address space: memory is taken by what guests touch.
pub(crate) fn engine(instances_max: u32) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances_max)));
    // With the whole 32-bit space reserved for each memory, loads and stores need no bounds checks.
    config.memory_reservation(4 << 30).memory_guard_size(32 << 20).memory_init_cow(true);
    config.consume_fuel(true).epoch_interruption(true).max_wasm_stack(STACK_BYTES_MAX);
    // The same answer on every machine: filters are evaluated again to explain a verdict.
    config.cranelift_nan_canonicalization(true).wasm_relaxed_simd(false);
    config
        .wasm_component_model(true)
        .wasm_simd(true)
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    // Calls are synchronous, on threads of their own; without this a call costs 187 ns instead of 580.
    config.concurrency_support(false);
    Engine::new(&config)
}

fn pool(instances_max: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances_max)
        .total_core_instances(instances_max * 4);
    pool.total_memories(instances_max).total_tables(instances_max * 2);
    pool.max_memories_per_component(1)
        .max_tables_per_component(2)
        .max_core_instances_per_component(4);
    pool.table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(usize::try_from(MEMORY_BYTES_MAX).unwrap_or(usize::MAX));
    // Slots are few and long-lived, so what is unused is given back.
    pool.max_unused_warm_slots(8).linear_memory_keep_resident(0).table_keep_resident(0);
    pool
}
