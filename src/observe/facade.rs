//! The crate `metrics` where the feature is on, and nothing at all where it is off.
//!
//! So what counts has no conditions in it. The invariant: with the feature off every type here is empty, every
//! call does nothing, and no clock is read.

#[cfg(feature = "metrics")]
pub(crate) use self::on::{Counter, Gauge, Histogram, Registry, Stopwatch};

#[cfg(not(feature = "metrics"))]
pub(crate) use self::off::{Counter, Gauge, Histogram, Registry, Stopwatch};

/// Whether anything is counted at all.
pub(crate) const ON: bool = cfg!(feature = "metrics");

/// In what a metric is measured.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Count,
    Bytes,
    Seconds,
}

/// A metric: its name, its unit, and what it says.
#[cfg_attr(
    not(feature = "metrics"),
    expect(dead_code, reason = "nothing is described then")
)]
pub(crate) struct Meter(pub &'static str, pub Unit, pub &'static str);

/// Labels besides the node.
pub(crate) type Labels<'a> = &'a [(&'static str, &'static str)];

#[cfg(feature = "metrics")]
mod on {
    use std::time::Instant;

    pub(crate) use metrics::{Counter, Gauge, Histogram};
    use metrics::{Label, SharedString};

    use super::{Labels, Meter, Unit};
    use crate::ids::NodeId;

    /// Registers the metrics of one node with the recorder that is installed for this thread.
    pub(crate) struct Registry(SharedString);

    impl Registry {
        pub(crate) fn new(node: NodeId) -> Registry {
            Registry(node.to_string().into())
        }

        pub(crate) fn counter(&self, meter: &Meter, labels: Labels<'_>) -> Counter {
            metrics::describe_counter!(meter.0, unit(meter), meter.2);
            metrics::counter!(meter.0, self.labels(labels))
        }

        pub(crate) fn gauge(&self, meter: &Meter, labels: Labels<'_>) -> Gauge {
            metrics::describe_gauge!(meter.0, unit(meter), meter.2);
            metrics::gauge!(meter.0, self.labels(labels))
        }

        pub(crate) fn histogram(&self, meter: &Meter, labels: Labels<'_>) -> Histogram {
            metrics::describe_histogram!(meter.0, unit(meter), meter.2);
            metrics::histogram!(meter.0, self.labels(labels))
        }

        fn labels(&self, labels: Labels<'_>) -> Vec<Label> {
            let node = Label::new("node", self.0.clone());
            let others = labels.iter().map(|(key, value)| Label::new(*key, *value));
            std::iter::once(node).chain(others).collect()
        }
    }

    fn unit(meter: &Meter) -> metrics::Unit {
        match meter.1 {
            Unit::Count => metrics::Unit::Count,
            Unit::Bytes => metrics::Unit::Bytes,
            Unit::Seconds => metrics::Unit::Seconds,
        }
    }

    /// A moment, to measure from.
    #[derive(Clone, Copy)]
    pub(crate) struct Stopwatch(Instant);

    impl Stopwatch {
        pub(crate) fn start() -> Stopwatch {
            Stopwatch(Instant::now())
        }

        /// The seconds from this moment to `end`.
        pub(crate) fn seconds_to(self, end: Stopwatch) -> f64 {
            end.0.saturating_duration_since(self.0).as_secs_f64()
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod off {
    use super::{Labels, Meter};
    use crate::ids::NodeId;

    #[derive(Clone)]
    pub(crate) struct Counter;

    impl Counter {
        #[cfg(feature = "tcp")]
        pub(crate) fn noop() -> Counter {
            Counter
        }

        pub(crate) fn increment(&self, _: u64) {}
    }

    #[derive(Clone)]
    pub(crate) struct Gauge;

    impl Gauge {
        pub(crate) fn set(&self, _: f64) {}
    }

    #[derive(Clone)]
    pub(crate) struct Histogram;

    impl Histogram {
        pub(crate) fn record(&self, _: f64) {}
    }

    pub(crate) struct Registry;

    impl Registry {
        pub(crate) fn new(_: NodeId) -> Registry {
            Registry
        }

        pub(crate) fn counter(&self, _: &Meter, _: Labels<'_>) -> Counter {
            Counter
        }

        pub(crate) fn gauge(&self, _: &Meter, _: Labels<'_>) -> Gauge {
            Gauge
        }

        pub(crate) fn histogram(&self, _: &Meter, _: Labels<'_>) -> Histogram {
            Histogram
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Stopwatch;

    impl Stopwatch {
        pub(crate) fn start() -> Stopwatch {
            Stopwatch
        }

        pub(crate) fn seconds_to(self, _: Stopwatch) -> f64 {
            0.0
        }
    }
}
