import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// One schedule carried out in a room of its own.
package struct ScheduleRun: Sendable {
  package struct Result: Sendable {
    package var schedule: FailoverSchedule
    /// What was done, with the hosts it was done to.
    package var done: [String] = []
    package var verdict = HistoryChecker.Verdict()
    /// How often somebody came to serve who didn't before.
    package var failovers = 0
    /// From the last healing until everybody followed one primary and the proxy let writes through.
    package var recovery: Duration = .zero
    /// Everything else that is wrong.
    package var problems: [String] = []
    package var logs: String?

    package var isGood: Bool { verdict.findings.isEmpty && problems.isEmpty }
  }

  let room: FailoverRoom
  private let schedule: FailoverSchedule
  let clients: RigClients
  private let time = SystemTime()

  private struct Due {
    var at: Int64
    var work: () throws -> Void
  }

  /// Blocks until all is over, and leaves nothing behind but the logs of what went wrong.
  ///
  /// - Parameter recoveryLimit: How long after healing all must be as it was.
  package static func carryOut(
    _ schedule: FailoverSchedule, program: String, recoveryLimit: Duration = .seconds(60),
    say: (String) -> Void = { _ in }
  ) throws -> Result {
    try carryOut(schedule, program: program, recoveryLimit: recoveryLimit) { run, result in
      try run.follow(&result, say)
    }
  }

  /// The same for what no schedule can say.
  ///
  /// - Parameter script: Does what it does, and undoes it but for the network.
  static func carryOut(
    _ schedule: FailoverSchedule, program: String, without protections: [String] = [],
    recoveryLimit: Duration = .seconds(60), script: (ScheduleRun, inout Result) throws -> Void
  ) throws -> Result {
    var options = FailoverRoom.Options(program: program)
    (options.seed, options.mode) = (schedule.seed, schedule.mode)
    options.agentOptions = protections.flatMap { ["--without", $0] }
    // Several failovers in one schedule are what is looked for.
    (options.budgets.pause, options.budgets.observe) = (.seconds(2), .seconds(2))
    let room = try FailoverRoom(options)
    var keeps = false
    defer { room.close(keepingFiles: keeps) }
    let clients = RigClients(
      [room.proxied("p1"), room.proxied("p2"), room.direct("d1", from: 0), room.direct("d2", from: 1)],
      on: room.network["client"], seed: schedule.seed)
    let run = ScheduleRun(room: room, schedule: schedule, clients: clients)
    var result = Result(schedule: schedule)
    do { try run.carryOut(recoveryLimit, &result, script) } catch {
      _ = clients.end()
      result.problems.append(AnyFailure(error).report.summary)
    }
    if !result.isGood {
      keeps = true
      result.logs = room.network.directory
      room.keepLogsOnly()
    }
    return result
  }

  private init(room: FailoverRoom, schedule: FailoverSchedule, clients: RigClients) {
    (self.room, self.schedule, self.clients) = (room, schedule, clients)
  }

  private func follow(_ result: inout Result, _ say: (String) -> Void) throws {
    var due: [Due] = []
    for fault in schedule.faults {
      if let state = fault.state { wait(for: state, 10_000, &due) } else { try pass(fault.afterMilliseconds, &due) }
      let (words, healing) = try inject(fault)
      result.done.append(words)
      say(words)
      due.append(Due(at: now + Int64(fault.forMilliseconds) * 1_000_000, work: healing))
    }
    while let next = due.min(by: { $0.at < $1.at }) { try pass(Int(max(0, next.at - now) / 1_000_000) + 1, &due) }
  }

  private func carryOut(
    _ recoveryLimit: Duration, _ result: inout Result, _ script: (ScheduleRun, inout Result) throws -> Void
  ) throws {
    try room.waitUntil("there is load") { clients.history.count > 200 }
    // Whoever made the first record lets go of the lease.
    try room.waitUntil("all is steady") {
      FailoverRoom.members.contains { room.agentLogTail($0, from: 0).contains("F-120") }
    }
    try script(self, &result)
    room.network.heal()
    let healed = now
    var primary = ""
    do {
      primary = try room.waitUntilWhole(within: recoveryLimit)
      try room.waitUntil("the proxy lets writes through", within: recoveryLimit) {
        clients.acknowledged(after: healed).contains { $0.client.hasPrefix("p") && $0.start > healed }
      }
      result.recovery = .nanoseconds(now - healed)
    } catch let error as SystemFailure {
      result.problems.append(error.report.summary)
      // What was lost can be said of whoever is believed to serve, all the same.
      guard let believed = room.believedPrimary else { throw error }
      primary = believed
    }
    poll(nil, 0, 300)
    let history = clients.end()
    let promise: HistoryChecker.Promise =
      schedule.mode == .zeroLoss ? .zeroLoss : .bounded(room.options.lossBound.duration)
    result.verdict = HistoryChecker(promise, money: RigClients.money).check(history, final: try room.final(primary))
    result.failovers = max(0, result.verdict.epochs - 1)
    if !result.verdict.findings.isEmpty {
      try Files.replace(
        room.network.directory + "/history.json", with: try CanonicalJSON.encode(history), mode: 0o644)
    }
    if room.options.agentOptions.isEmpty {
      for name in room.replayDifferences() { result.problems.append("\(name)'s record replays to something else") }
    }
    for name in FailoverRoom.members + ["witness"] where !room.isRunning("salvor", on: name) {
      result.problems.append("\(name)'s agent has ended by itself: \(room.agentLog(name).last ?? "")")
    }
  }

  private var now: Int64 { time.monotonicNanoseconds() }

  /// Lets time pass, and does what comes due in it.
  private func pass(_ milliseconds: Int, _ due: inout [Due]) throws {
    let end = now + Int64(milliseconds) * 1_000_000
    while now < end {
      try settle(&due)
      poll(nil, 0, 5)
    }
    try settle(&due)
  }

  private func settle(_ due: inout [Due]) throws {
    let ready = due.filter { $0.at <= now }.sorted { $0.at < $1.at }
    due.removeAll { $0.at <= now }
    for item in ready { try item.work() }
  }

  /// Until an agent says that it has come to a state, counted from here.
  private func wait(for state: String, _ milliseconds: Int, _ due: inout [Due]) {
    let names = FailoverRoom.members + ["witness"]
    let before = names.map { room.agentLogBytes($0) }
    let end = now + Int64(milliseconds) * 1_000_000
    while now < end {
      for (name, offset) in zip(names, before) where room.agentLogTail(name, from: offset).contains(" \(state): ") {
        return
      }
      try? settle(&due)
      poll(nil, 0, 3)
    }
  }

  // MARK: Faults

  private func host(_ place: RoomFault.Place, _ primary: String) -> String {
    switch place {
    case .primary: primary
    case .standby(let number): FailoverRoom.members.filter { $0 != primary }[number % 2]
    case .host(let name): name
    }
  }

  private func inject(_ fault: RoomFault) throws -> (String, () throws -> Void) {
    let primary = room.servingPrimary ?? room.believedPrimary ?? "a"
    let network = room.network
    func named(_ place: RoomFault.Place) -> String { host(place, primary) }
    var words = "\(fault) [primary \(primary)]"
    var healing: () throws -> Void = {}
    switch fault.kind {
    case .kill(let program, let place):
      let name = named(place)
      let count = network.signal(SIGKILL, program.rawValue, on: name)
      words += " \(count) on \(name)"
      healing = { try room.startAgain(program, on: name) }
    case .freeze(let programs, let place):
      let name = named(place)
      for program in programs { network.signal(SIGSTOP, program.rawValue, on: name) }
      healing = { for program in programs { network.signal(SIGCONT, program.rawValue, on: name) } }
    case .isolate(let place):
      let name = named(place)
      let others = network.hosts.map(\.name).filter { $0 != name }
      for other in others { network.link(name, other, .cut) }
      healing = { for other in others { network.link(name, other, .open) } }
    case .cut(let a, let b):
      let (from, to) = pair(named(a), named(b), primary)
      network.link(from, to, .cut)
      words += " \(from)-\(to)"
      healing = { network.link(from, to, .open) }
    case .oneWay(let a, let b):
      let (from, to) = pair(named(a), named(b), primary)
      network.link(from, to, .cut, bothWays: false)
      words += " \(from)>\(to)"
      healing = { network.link(from, to, .open, bothWays: false) }
    case .bridge(let place):
      let middle = named(place)
      let one = [primary, "client"].filter { $0 != middle }
      let other = network.hosts.map(\.name).filter { $0 != middle && !one.contains($0) }
      for from in one { for to in other { network.link(from, to, .cut) } }
      healing = { for from in one { for to in other { network.link(from, to, .open) } } }
    case .weather(let rule):
      network.links.change { rules in
        for from in network.hosts.indices {
          for to in network.hosts.indices where from != to { rules[from, to] = rule }
        }
      }
      healing = { network.heal() }
    case .fullDisk(let place):
      let name = named(place)
      try room.fillDisk(on: name)
      // The next segment of the log has no place; not only after the hours this load would take to fill one.
      for _ in 0..<2 {
        _ = try? FailoverRig.ask(
          "SELECT pg_switch_wal(), pg_logical_emit_message(true, 'rig', 'full')",
          at: "host=\(network[name].address) port=5432", from: network[name], within: .seconds(1))
      }
      healing = { room.emptyDisk(on: name) }
    case .slowDisk(let milliseconds, let place):
      let name = named(place)
      try room.tell(name) { $0.syncDelayMicroseconds = Int64(milliseconds) * 1000 }
      healing = { try room.tell(name) { $0.syncDelayMicroseconds = 0 } }
    case .clock(let seconds, let place):
      try room.tell(named(place)) { $0.clockOffsetNanoseconds += Int64(seconds) * 1_000_000_000 }
    }
    return (words, healing)
  }

  /// A place and itself are no pair.
  private func pair(_ a: String, _ b: String, _ primary: String) -> (String, String) {
    a != b ? (a, b) : (a, FailoverRoom.members.first { $0 != a } ?? "witness")
  }
}
