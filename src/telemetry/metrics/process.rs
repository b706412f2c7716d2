//! The process as the kernel sees it, under the names that Prometheus' own libraries use.

use std::fmt;

use procfs::{ProcError, process::Process as Proc};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Reads `/proc/self` at each scrape. Where that cannot be read there are no such metrics.
#[derive(Debug)]
pub(super) struct Process;

struct Reading {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: i64,
    open_fds: u64,
    max_fds: Option<u64>,
    started: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(reading) = read() else { return Ok(()) };
        let mut gauge = |name: &str, help: &str, value: f64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        gauge("process_resident_memory_bytes", "Memory in use", reading.resident_bytes as f64)?;
        gauge("process_virtual_memory_bytes", "Address space in use", reading.virtual_bytes as f64)?;
        gauge("process_threads", "Threads", reading.threads as f64)?;
        gauge("process_open_fds", "Open file descriptors", reading.open_fds as f64)?;
        if let Some(max) = reading.max_fds {
            gauge("process_max_fds", "File descriptors that may be open", max as f64)?;
        }
        gauge("process_start_time_seconds", "When the process started", reading.started)?;
        let help = "CPU time used";
        let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(reading.cpu_seconds).encode(metric)
    }
}

fn read() -> Result<Reading, ProcError> {
    let process = Proc::myself()?;
    let stat = process.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    let limit = process.limits()?.max_open_files.soft_limit;
    Ok(Reading {
        cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        threads: stat.num_threads,
        open_fds: process.fd_count()? as u64,
        max_fds: match limit {
            procfs::process::LimitValue::Value(limit) => Some(limit),
            procfs::process::LimitValue::Unlimited => None,
        },
        started: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
    })
}
