//! One running guest: its store, its limits, and the expressions that it has compiled.

use std::collections::HashMap;
use std::sync::Arc;

use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Func, Instance as GuestInstance, Lift, Lower, ResourceAny};
use wasmtime::{ResourceLimiter, Store, Trap, WasmBacktrace};

use crate::error::RunFailure;
use crate::filter::{Attribute, FilterHandle, Hint, RawVerdicts, Refusal, Verdicts};
use crate::limits::{ANSWER_BYTES_MAX, COMPILE_FUEL, COMPILE_MS, MEMORY_BYTES_MAX, PREDICATES_MAX, PluginLimits, TABLE_ELEMENTS_MAX};
use crate::module::Module;
use crate::ticker::TICK_MS;
use crate::view::View;

/// An instance of a plugin. After a failed call it must not be used again: the guest may be in any state.
///
/// Whoever calls into it keeps the ticker running meanwhile.
pub(crate) struct Instance {
    store: Store<Guard>,
    compile: Func,
    columns: Func,
    hint: Func,
    evaluate: Func,
    predicates: HashMap<Arc<str>, Predicate>,
    /// Counts uses, to find the predicate unused for longest.
    uses: u64,
    /// The limits of the call under way, for the text of its failure.
    call: Call,
}

/// A compiled expression.
#[derive(Clone, Copy)]
struct Predicate {
    resource: ResourceAny,
    last_use: u64,
}

#[derive(Clone, Copy)]
struct Call {
    fuel: u64,
    ms: u32,
}

const COMPILING: Call = Call {
    fuel: COMPILE_FUEL,
    ms: COMPILE_MS,
};

/// Bounds what a guest may grow to.
pub(crate) struct Guard {
    memory_bytes: u64,
    /// The guest was refused memory once, so what fails afterwards failed for want of it.
    was_refused: bool,
}

impl Instance {
    /// Starts a guest.
    pub(crate) fn start(module: &Module, limits: &PluginLimits) -> Result<Self, RunFailure> {
        let memory_bytes = limits.memory_bytes.min(MEMORY_BYTES_MAX);
        let mut store = Store::new(
            module.instance().engine(),
            Guard {
                memory_bytes,
                was_refused: false,
            },
        );
        store.limiter(|guard| guard);
        store.set_hostcall_fuel(ANSWER_BYTES_MAX);
        arm(&mut store, COMPILING);
        let guest = match module.instance().instantiate(&mut store) {
            Ok(guest) => guest,
            Err(error) => return Err(start_failure(&store, &error)),
        };
        let exports = module.exports();
        let compile = guest_function::<(&str,), (Result<ResourceAny, Refusal>,)>(&guest, &mut store, &exports.compile)?;
        let columns = guest_function::<(ResourceAny,), (Vec<Attribute>,)>(&guest, &mut store, &exports.columns)?;
        let hint = guest_function::<(ResourceAny,), (Option<Hint>,)>(&guest, &mut store, &exports.hint)?;
        let evaluate = guest_function::<(ResourceAny, &[u8]), (RawVerdicts,)>(&guest, &mut store, &exports.evaluate)?;
        Ok(Self {
            store,
            compile,
            columns,
            hint,
            evaluate,
            predicates: HashMap::new(),
            uses: 0,
            call: COMPILING,
        })
    }

    /// Compiles an expression and keeps it. The outer failure is the plugin's, the inner one the expression's.
    pub(crate) fn compile(&mut self, expression: &Arc<str>) -> Result<Result<ResourceAny, Refusal>, RunFailure> {
        self.uses += 1;
        if let Some(predicate) = self.predicates.get_mut(expression) {
            predicate.last_use = self.uses;
            return Ok(Ok(predicate.resource));
        }
        self.make_room()?;
        let (result,) = self.call::<_, (Result<ResourceAny, Refusal>,)>(self.compile, COMPILING, (&**expression,))?;
        if let Ok(resource) = result {
            self.predicates.insert(
                Arc::clone(expression),
                Predicate {
                    resource,
                    last_use: self.uses,
                },
            );
        }
        Ok(result)
    }

    /// The columns that a compiled expression asks for.
    pub(crate) fn columns(&mut self, predicate: ResourceAny) -> Result<Vec<Attribute>, RunFailure> {
        Ok(self.call::<_, (Vec<Attribute>,)>(self.columns, COMPILING, (predicate,))?.0)
    }

    /// The hint that a compiled expression gives.
    pub(crate) fn hint(&mut self, predicate: ResourceAny) -> Result<Option<Hint>, RunFailure> {
        Ok(self.call::<_, (Option<Hint>,)>(self.hint, COMPILING, (predicate,))?.0)
    }

    /// Judges a run, compiling the expression if this instance has not yet.
    pub(crate) fn evaluate(&mut self, filter: &FilterHandle, view: View<'_>) -> Result<Verdicts, RunFailure> {
        let predicate = self
            .compile(&filter.expression)?
            .map_err(|refusal| RunFailure::BadOutput(format!("it refuses an expression that it accepted before: {refusal}")))?;
        let messages = view.messages() as u64;
        let fuel = filter
            .limits
            .fuel_per_run
            .saturating_add(filter.limits.fuel_per_message.saturating_mul(messages));
        let call = Call {
            fuel,
            ms: filter.limits.run_ms,
        };
        let (raw,) = self.call::<_, (RawVerdicts,)>(self.evaluate, call, (predicate, view.bytes()))?;
        Verdicts::read(&raw, view.messages())
    }

    /// Drops the expression unused for longest when there are as many as may be.
    fn make_room(&mut self) -> Result<(), RunFailure> {
        if self.predicates.len() < PREDICATES_MAX {
            return Ok(());
        }
        let oldest = self
            .predicates
            .iter()
            .min_by_key(|(_, predicate)| predicate.last_use)
            .map(|(expression, _)| Arc::clone(expression));
        let Some(predicate) = oldest.and_then(|expression| self.predicates.remove(&expression)) else {
            return Ok(());
        };
        self.call = COMPILING;
        arm(&mut self.store, COMPILING);
        predicate
            .resource
            .resource_drop(&mut self.store)
            .map_err(|error| self.failure(&error))
    }

    fn call<Params, Results>(&mut self, function: Func, call: Call, params: Params) -> Result<Results, RunFailure>
    where
        Params: ComponentNamedList + Lower,
        Results: ComponentNamedList + Lift + 'static,
    {
        self.call = call;
        // Checking the types anew costs some 0.1 µs a run, and spares holding a function typed by the caller's lifetimes.
        let function = function
            .typed::<Params, Results>(&self.store)
            .map_err(|error| RunFailure::BadOutput(format!("{error:#}")))?;
        arm(&mut self.store, call);
        function.call(&mut self.store, params).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &wasmtime::Error) -> RunFailure {
        failure(&self.store, self.call, error)
    }
}

impl ResourceLimiter for Guard {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let is_granted = desired as u64 <= self.memory_bytes;
        self.was_refused |= !is_granted;
        Ok(is_granted)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let is_granted = desired <= TABLE_ELEMENTS_MAX;
        self.was_refused |= !is_granted;
        Ok(is_granted)
    }

    // What a component may be made of is bounded by the pool; a component has one memory.
}

/// Gives the next call its fuel and its time.
fn arm(store: &mut Store<Guard>, call: Call) {
    store.set_fuel(call.fuel).expect("the engine counts fuel");
    // The tick under way is a part of one, so one more is given.
    store.set_epoch_deadline(u64::from(call.ms.div_ceil(TICK_MS)) + 1);
}

/// A function of the guest, if it has these types.
fn guest_function<Params, Results>(
    guest: &GuestInstance,
    store: &mut Store<Guard>,
    index: &ComponentExportIndex,
) -> Result<Func, RunFailure>
where
    Params: ComponentNamedList + Lower,
    Results: ComponentNamedList + Lift,
{
    let function = guest.get_typed_func::<Params, Results>(store, index);
    function
        .map(|function| *function.func())
        .map_err(|error| RunFailure::BadOutput(format!("{error:#}")))
}

fn start_failure(store: &Store<Guard>, error: &wasmtime::Error) -> RunFailure {
    if error.is::<Trap>() || store.data().was_refused {
        failure(store, COMPILING, error)
    } else {
        RunFailure::NoInstance(format!("{error:#}"))
    }
}

fn failure(store: &Store<Guard>, call: Call, error: &wasmtime::Error) -> RunFailure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => RunFailure::Fuel(call.fuel),
        Some(Trap::Interrupt) => RunFailure::Time(call.ms),
        Some(_) | None if store.data().was_refused => RunFailure::Memory(store.data().memory_bytes),
        Some(trap) => RunFailure::Trap(trap_text(*trap, error)),
        None => RunFailure::BadOutput(format!("{error:#}")),
    }
}

/// The trap and the function in which it happened, where the guest names its functions.
fn trap_text(trap: Trap, error: &wasmtime::Error) -> String {
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let mut names = backtrace
        .into_iter()
        .flat_map(WasmBacktrace::frames)
        .filter_map(|frame| frame.func_name());
    match names.next() {
        Some(name) => format!("{trap} (within {name})"),
        None => trap.to_string(),
    }
}
