import FailoverRig
import Testing

@Suite("Schedules of faults") struct ScheduleTests {
  @Test func `a seed is a schedule`() {
    for seed in UInt64(1)...200 {
      #expect(FailoverSchedule(seed: seed, mode: .zeroLoss) == FailoverSchedule(seed: seed, mode: .zeroLoss))
    }
    #expect(FailoverSchedule(seed: 1, mode: .zeroLoss).faults != FailoverSchedule(seed: 2, mode: .zeroLoss).faults)
  }

  @Test func `two hundred of them have everything in them`() {
    let words = (UInt64(1)...200).flatMap { FailoverSchedule(seed: $0, mode: .zeroLoss).faults.map(\.description) }
    let wanted = [
      "kill postgres on primary", "kill postgres on standby", "kill agent", "kill haproxy", "kill etcd",
      "freeze postgres on primary", "freeze salvor on", "freeze postgres+salvor on primary", "isolate primary",
      "cut primary",
      "bridge over", "loss", "full disk on primary", "fsync", "clock", " in fence", " in choose", " in record",
      " in promote", " in repoint", " in shift",
    ]
    for text in wanted { #expect(words.contains { $0.contains(text) }, "no schedule has '\(text)'") }
  }
}
