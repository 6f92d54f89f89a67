//! One scrape: what the shell, the process and the core have counted, written as OpenMetrics text.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sluice_core::Counters;
use sluice_core::survey::Totals;

use crate::core_counts::CORE_COUNTS;
use crate::metrics::{Metrics, Reading};
use crate::process::{self, ProcessUsage};
use crate::shard::StorageRoom;
use crate::survey::{Everything, Lag};

/// What a scrape is made of.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gauges: Gauges,
    /// `None` when the core did not answer in time.
    pub(crate) everything: Option<Everything>,
}

/// What the shell can say of the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauges {
    /// Whether `/ready` says so.
    pub(crate) ready: bool,
    /// How much room the log has.
    pub(crate) storage_room: StorageRoom,
    /// Whether the log could not be written, so that everything is refused.
    pub(crate) storage_failed: bool,
    /// Bytes of the inbox that are taken, of those there are.
    pub(crate) inbox_bytes: u64,
    pub(crate) inbox_bytes_max: u64,
    /// Stretches of messages that wait for a verdict thread.
    pub(crate) verdicts_waiting: u64,
    /// Bytes of the files of the log.
    pub(crate) log_bytes: Option<u64>,
    /// When the process began to serve, in seconds since 1970.
    pub(crate) started_seconds: f64,
    /// The number of this start.
    pub(crate) epoch: u32,
}

impl Scrape {
    /// Writes it.
    pub(crate) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("writing to a String cannot fail");
        text
    }
}

/// Of a total: its name, what it counts, and where it is found.
type Total = (&'static str, &'static str, fn(&Totals) -> u64);

const TOTALS: &[Total] = &[
    ("topics", "Topics.", |t| t.topics),
    ("queues", "Queues of all topics.", |t| t.queues),
    ("groups", "Consumer groups.", |t| t.groups),
    ("cursors", "Places of groups in queues.", |t| t.cursors),
    ("pauses", "Groups that operators paused, each topic counted.", |t| t.pauses),
    ("producers", "Producers whose sequences are remembered.", |t| t.producers),
    ("producer_memory_bytes", "Memory that remembering them takes.", |t| t.producer_bytes),
    ("delayed_waiting", "Messages that wait for their time.", |t| t.delayed),
    ("transactions_waiting", "Prepared messages that wait for a decision.", |t| {
        t.undecided
    }),
    ("subscriptions", "Open stream subscriptions.", |t| t.streams),
    ("receives_waiting", "Receives that wait for messages.", |t| t.receives),
];

/// How a plugin failed, and where the core counts it.
type Failure = (&'static str, fn(&Counters) -> u64);

const FAILURES: [Failure; 6] = [
    ("trap", |c| c.culprits_trapped),
    ("fuel", |c| c.culprits_out_of_fuel),
    ("memory", |c| c.culprits_out_of_memory),
    ("answer", |c| c.culprits_bad_answer),
    ("stopped", |c| c.runs_stopped),
    ("unasked", |c| c.judge_failures.saturating_sub(c.runs_stopped)),
];

/// Why leases came back, and where the core counts it.
type Return = (&'static str, fn(&Counters) -> u64);

const RETURNS: [Return; 4] = [
    ("nacked", |c| c.returned_nacked),
    ("expired", |c| c.returned_expired),
    ("connection_lost", |c| c.returned_lost),
    ("closed", |c| c.returned_closed),
];

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.labelled_gauge(
            "build_info",
            "The version that runs.",
            &[([("version", env!("CARGO_PKG_VERSION"))], 1)],
        )?;
        self.shell(&mut page)?;
        self.process(&mut page)?;
        page.gauge(
            "core_answered",
            "Whether the core answered this scrape in time; what it counts is missing when it did not.",
            u64::from(self.everything.is_some()),
        )?;
        match &self.everything {
            Some(everything) => self.core(everything, &mut page),
            None => Ok(()),
        }
    }
}

impl Scrape {
    fn shell(&self, page: &mut Page<'_>) -> fmt::Result {
        let gauges = &self.gauges;
        for Reading { name, about, value } in self.metrics.readings() {
            page.counter(name, about.trim(), value)?;
        }
        let refusals: Vec<_> = self
            .metrics
            .refusals
            .readings()
            .map(|(code, count)| ([("code", code.name())], count))
            .collect();
        page.labelled_counter(
            "refusals",
            "Requests, messages and settlements refused, by the code that the client was told.",
            &refusals,
        )?;
        page.histogram("log_sync_seconds", "How long syncs of the log took.", &self.metrics.sync_seconds)?;
        page.histogram(
            "log_commit_bytes",
            "Bytes of records in each group commit.",
            &self.metrics.commit_bytes,
        )?;
        page.histogram("log_commit_records", "Records in each group commit.", &self.metrics.commit_records)?;
        let open = self
            .metrics
            .connections_opened
            .get()
            .saturating_sub(self.metrics.connections_closed.get());
        page.gauge("connections", "Open connections.", open)?;
        page.gauge("ready", "Whether /ready says so.", u64::from(gauges.ready))?;
        page.gauge(
            "storage_full",
            "Whether the disk is full, so that publishes are refused.",
            u64::from(gauges.storage_room < StorageRoom::Enough),
        )?;
        page.gauge(
            "storage_reserve_used_up",
            "Whether the disk is so full that consumers are refused too.",
            u64::from(gauges.storage_room == StorageRoom::Nothing),
        )?;
        page.gauge(
            "storage_failed",
            "Whether the log could not be written, so that everything is refused.",
            u64::from(gauges.storage_failed),
        )?;
        page.gauge(
            "inbox_bytes",
            "Memory for what clients asked and was not answered yet.",
            gauges.inbox_bytes,
        )?;
        page.gauge("inbox_limit_bytes", "What limits.inbox_bytes allows.", gauges.inbox_bytes_max)?;
        page.gauge(
            "verdict_stretches_waiting",
            "Stretches of messages that wait for a verdict thread.",
            gauges.verdicts_waiting,
        )?;
        if let Some(bytes) = gauges.log_bytes {
            page.gauge(
                "log_disk_bytes",
                "Bytes of the files of the log, those filled ahead included.",
                bytes,
            )?;
        }
        page.gauge("epoch", "The number of this start on this data directory.", u64::from(gauges.epoch))
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        page.plain_gauge(
            "process_start_time_seconds",
            "When this broker began, in seconds since 1970.",
            self.gauges.started_seconds,
        )?;
        if let Some(usage) = ProcessUsage::read() {
            let cpu = (usage.user + usage.system).as_secs_f64();
            page.plain_counter(
                "process_cpu_seconds",
                "CPU time of all threads, in user mode and in the kernel.",
                cpu,
            )?;
            page.plain_gauge("process_resident_memory_bytes", "Resident memory.", usage.resident_bytes)?;
            page.plain_gauge(
                "process_virtual_memory_bytes",
                "Address space, most of it reserved and never touched.",
                usage.virtual_bytes,
            )?;
            page.plain_gauge("process_threads", "Threads.", usage.threads)?;
        }
        if let Some((open, most)) = process::open_files() {
            page.plain_gauge("process_open_fds", "Open files and sockets.", open)?;
            if let Some(most) = most {
                page.plain_gauge("process_max_fds", "Files and sockets that may be open.", most)?;
            }
        }
        Ok(())
    }

    fn core(&self, everything: &Everything, page: &mut Page<'_>) -> fmt::Result {
        let Everything {
            totals,
            topics,
            groups,
            lag,
            held,
        } = everything;
        for (name, about, value) in TOTALS {
            page.gauge(name, about, value(totals))?;
        }
        for (name, about, value) in CORE_COUNTS {
            page.counter(name, about, value(&totals.counters))?;
        }
        let returns = RETURNS.map(|(reason, value)| ([("reason", reason)], value(&totals.counters)));
        page.labelled_counter("leases_returned", "Leases that came back unsettled, by the reason.", &returns)?;

        let failures = FAILURES.map(|(kind, value)| ([("kind", kind)], value(&totals.counters)));
        page.labelled_counter(
            "plugin_failures",
            "Messages on which a plugin failed, by how; runs that the wall clock stopped; questions that no plugin could be asked.",
            &failures,
        )?;

        let by_topic = |value: fn(&sluice_core::survey::TopicReading) -> u64| -> Vec<_> {
            topics
                .iter()
                .map(|topic| ([("topic", topic.name.as_str())], value(topic)))
                .collect()
        };
        page.labelled_gauge("topic_messages", "Messages stored in a topic.", &by_topic(|topic| topic.stored))?;
        page.labelled_counter(
            "topic_messages_appended",
            "Messages stored in a topic since it was created.",
            &by_topic(|topic| topic.appended),
        )?;
        page.gauge(
            "metrics_topics_left_out",
            "Topics without series of their own, those with the fewest messages.",
            topics.left_out,
        )?;

        let parts = lag.parts().map(|(part, count)| ([("part", part)], count));
        page.labelled_gauge(
            "lag_messages",
            "Messages that groups have not settled, over all groups, by why not.",
            &parts,
        )?;
        page.gauge(
            "groups_held",
            "Groups held because their plugin is broken, counted by topic, until an operator resumes them.",
            *held,
        )?;
        let mut by_part = Vec::new();
        let mut held_queues = Vec::new();
        let mut held_groups = Vec::new();
        for reading in groups.iter() {
            let (group, topic) = (("group", reading.group.as_str()), ("topic", reading.topic.as_str()));
            by_part.extend(
                Lag::from(reading)
                    .parts()
                    .map(|(part, count)| ([group, topic, ("part", part)], count)),
            );
            if reading.held_queues > 0 {
                held_queues.push(([group, topic], reading.held_queues));
            }
            if reading.alarm {
                held_groups.push(([group, topic], 1));
            }
        }
        page.labelled_gauge(
            "group_lag_messages",
            "Messages that a group has not settled of a topic, by why not.",
            &by_part,
        )?;
        page.labelled_gauge(
            "group_held_queues",
            "Queues in which nothing is judged for a group for now, because a run could not be judged.",
            &held_queues,
        )?;
        page.labelled_gauge(
            "group_held",
            "1 for each group that is held on a topic because its plugin is broken.",
            &held_groups,
        )?;
        page.gauge(
            "metrics_groups_left_out",
            "Groups without series of their own, counted by topic, those with the smallest lag.",
            groups.left_out,
        )
    }
}

/// The text as it grows. Names get the product's prefix, but for those that every process has.
struct Page<'a>(DescriptorEncoder<'a>);

/// Values by their labels.
type Labelled<'a, const N: usize> = [([(&'static str, &'a str); N], u64)];

impl Page<'_> {
    fn counter(&mut self, name: &str, about: &str, value: u64) -> fmt::Result {
        self.labelled_counter::<0>(name, about, &[([], value)])
    }

    fn gauge(&mut self, name: &str, about: &str, value: u64) -> fmt::Result {
        self.plain_gauge(&format!("sluice_{name}"), about, value)
    }

    fn plain_gauge(&mut self, name: &str, about: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, about, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn plain_counter(&mut self, name: &str, about: &str, value: f64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, about, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn labelled_counter<const N: usize>(&mut self, name: &str, about: &str, values: &Labelled<'_, N>) -> fmt::Result {
        let name = format!("sluice_{name}");
        let mut metric = self.0.encode_descriptor(&name, about, None, MetricType::Counter)?;
        for (labels, value) in values {
            metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        Ok(())
    }

    fn labelled_gauge<const N: usize>(&mut self, name: &str, about: &str, values: &Labelled<'_, N>) -> fmt::Result {
        let name = format!("sluice_{name}");
        let mut metric = self.0.encode_descriptor(&name, about, None, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(labels)?.encode_gauge(value)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, about: &str, histogram: &Histogram) -> fmt::Result {
        let name = format!("sluice_{name}");
        histogram.encode(self.0.encode_descriptor(&name, about, None, MetricType::Histogram)?)
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocol::errors::ErrorCode;

    use super::*;

    fn page(everything: Option<Everything>) -> String {
        let metrics = Metrics::default();
        metrics.turns.add(3);
        metrics.refusals.add(ErrorCode::Overloaded, 2);
        metrics.sync_seconds.observe(0.000_3);
        let scrape = Scrape {
            metrics: Arc::new(metrics),
            gauges: Gauges {
                ready: true,
                storage_room: StorageRoom::Reserve,
                storage_failed: false,
                inbox_bytes: 1,
                inbox_bytes_max: 2,
                verdicts_waiting: 0,
                log_bytes: Some(3),
                started_seconds: 1.5,
                epoch: 1,
            },
            everything,
        };
        scrape.text()
    }

    #[test]
    fn every_series_has_a_help_and_a_type_and_the_page_its_end() {
        let page = page(Some(Everything::default()));
        for expected in [
            "# HELP sluice_turns Turns of the shard.\n# TYPE sluice_turns counter\nsluice_turns_total 3\n",
            "sluice_refusals_total{code=\"Overloaded\"} 2\n",
            "sluice_refusals_total{code=\"StorageFull\"} 0\n",
            "sluice_log_sync_seconds_bucket{le=\"0.00025\"} 0\n",
            "sluice_log_sync_seconds_bucket{le=\"0.0005\"} 1\n",
            "sluice_log_sync_seconds_count 1\n",
            "# TYPE sluice_lag_messages gauge\nsluice_lag_messages{part=\"unjudged\"} 0\n",
            "sluice_core_answered 1\n",
            "sluice_storage_full 1\n",
            "sluice_storage_reserve_used_up 0\n",
        ] {
            assert!(page.contains(expected), "{expected} is not in:\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(name.starts_with("sluice_") || name.starts_with("process_"), "{line}");
        }
    }

    #[test]
    fn without_the_core_the_rest_is_shown() {
        let page = page(None);
        assert!(page.contains("sluice_core_answered 0\n") && page.contains("sluice_turns_total 3\n"));
        assert!(!page.contains("sluice_lag_messages"));
    }
}
