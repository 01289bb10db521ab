import Core
import FailoverRig
import Foundation
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// How long service is away when a loaded primary is killed, beside Patroni under the same load on the same hosts; and
/// whether noise moves it.
enum FailoverBench: Benchmark {
  static let name = "failover"
  static let summary =
    "kill -9 of a loaded primary to the next acknowledged write, beside Patroni; noise: --set rounds=, patroni=, noise=SECONDS"

  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow] {
    let isFull = context.scale == .full
    let rounds = context.number("rounds") ?? (isFull ? 10 : 1)
    let peers = context.number("patroni") ?? (isFull ? 3 : 0)
    let noise = context.number("noise") ?? (isFull ? 60 : 1)
    return try await BlockingPool.shared.run { () throws in
      var rows = try ours(rounds, noise: noise)
      if peers > 0 {
        for settings in [PatroniRoom.Settings.byDefault, .tightest] { rows += try theirs(settings, peers) }
      }
      return rows
    }
  }

  /// What is killed.
  private enum Loss: String, CaseIterable {
    case server = "the server killed"
    case host = "all on the host killed"
  }

  // MARK: Salvor

  private static func ours(_ rounds: Int, noise: Int) throws -> [BenchmarkRow] {
    var rows: [BenchmarkRow] = []
    let room = try FailoverRoom(.init(program: MeasuredProgram.own))
    defer { room.close() }
    let clients = RigClients(
      (0..<4).map { room.proxied("client-\($0)") }, on: room.network["client"], seed: 1)
    for loss in Loss.allCases {
      var seconds: [Double] = []
      for _ in 0..<rounds {
        try room.waitUntil("all follow", within: .seconds(120)) { room.whole != nil }
        // The policy's own pause between two failovers is no part of one.
        poll(nil, 0, Int32(room.options.budgets.pause.wholeMilliseconds))
        seconds.append(
          try time(loss, of: room.whole ?? "a", in: room.network, clients, agent: "salvor") { try room.startAgent($0) })
      }
      rows.append(
        BenchmarkRow("Salvor, \(loss.rawValue), median", median(seconds), "s", bar: loss == .server ? .atMost(3) : nil))
      rows.append(BenchmarkRow("Salvor, \(loss.rawValue), longest", seconds.max() ?? 0, "s"))
    }
    try room.waitUntil("all follow", within: .seconds(120)) { room.whole != nil }
    rows.append(try moved(by: noise, in: room))
    let history = clients.end()
    try room.waitUntil("all follow", within: .seconds(120)) { room.whole != nil }
    let verdict = HistoryChecker(.zeroLoss, money: RigClients.money).check(
      history, final: try room.final(room.whole ?? "a"))
    rows.append(BenchmarkRow("Salvor, writes acknowledged", Double(verdict.acknowledged), ""))
    rows.append(BenchmarkRow("Salvor, of them lost", Double(verdict.lost), "", bar: .atMost(0)))
    rows.append(BenchmarkRow("Salvor, broken promises", Double(verdict.findings.count), "", bar: .atMost(0)))
    return rows
  }

  /// Stalls of at most two seconds, a tenth of all packets lost, and no processor to be had, one after another.
  private static func moved(by seconds: Int, in room: FailoverRoom) throws -> BenchmarkRow {
    let chance = SeededRandomness(seed: 7)
    let time = SystemTime()
    let end = time.monotonicNanoseconds() + Int64(seconds) * 1_000_000_000
    let before = try epoch(room)
    while time.monotonicNanoseconds() < end {
      let name = FailoverRoom.members[chance.below(FailoverRoom.members.count)]
      switch chance.below(4) {
      case 0, 1:
        let program = chance.below(2) == 0 ? "postgres" : "salvor"
        room.network.signal(SIGSTOP, program, on: name)
        poll(nil, 0, Int32(200 + chance.below(1800)))
        room.network.signal(SIGCONT, program, on: name)
      case 2:
        for a in FailoverRoom.hosts {
          for b in FailoverRoom.hosts where a < b {
            room.network.link(a, b, NetworkRule(lossThousandths: 100))
          }
        }
        poll(nil, 0, Int32(2000 + chance.below(6000)))
        room.network.heal()
      default:
        var burning: [Int32] = []
        for _ in 0..<6 {
          burning.append(try room.network.start(["/bin/sh", "-c", "while :; do :; done"], on: name, log: "burn.log"))
        }
        poll(nil, 0, Int32(2000 + chance.below(6000)))
        for pid in burning { kill(pid, SIGKILL) }
      }
      poll(nil, 0, Int32(500 + chance.below(2000)))
    }
    let after = try epoch(room)
    return BenchmarkRow("Salvor, failovers in \(seconds) s of noise", Double(after - before), "", bar: .atMost(0))
  }

  /// The timeline of whoever serves: one more with every promotion.
  private static func epoch(_ room: FailoverRoom) throws -> Int64 {
    try room.waitUntil("all follow", within: .seconds(120)) { room.whole != nil }
    let rows = try room.ask("SELECT timeline_id FROM pg_control_checkpoint()", on: room.whole ?? "a")
    return rows.first?.first.flatMap { $0 }.flatMap { Int64($0) } ?? 0
  }

  // MARK: Patroni

  private static func theirs(_ settings: PatroniRoom.Settings, _ rounds: Int) throws -> [BenchmarkRow] {
    var rows: [BenchmarkRow] = []
    let room = try PatroniRoom(settings, seed: 1)
    defer { room.close() }
    try room.makeTables()
    let clients = RigClients(
      (0..<4).map { .init("client-\($0)", [room.throughProxy]) }, on: room.network["client"], seed: 1)
    for loss in Loss.allCases {
      var seconds: [Double] = []
      for _ in 0..<rounds {
        try room.wait("primary that all follow") { room.whole != nil }
        seconds.append(
          try time(loss, of: room.whole ?? "a", in: room.network, clients, agent: "patroni") {
            try room.startPatroni($0)
          })
      }
      rows.append(
        BenchmarkRow("Patroni 3.0, \(settings.name), \(loss.rawValue), median", median(seconds), "s"))
    }
    _ = clients.end()
    return rows
  }

  // MARK: One kill

  /// From the kill to the first write that is acknowledged after it.
  private static func time(
    _ loss: Loss, of primary: String, in network: RigNetwork, _ clients: RigClients, agent: String,
    restart: (String) throws -> Void
  ) throws -> Double {
    poll(nil, 0, 3000)
    let moment = SystemTime().monotonicNanoseconds()
    if loss == .host { network.signal(SIGKILL, agent, on: primary) }
    guard network.signal(SIGKILL, "postgres", on: primary) > 0 else {
      throw BenchmarkError.wrong("no server runs on \(primary)")
    }
    // Patroni may start the same server again, and what was on its way to the one that died is no answer of that one.
    let ended = agent == "salvor" ? moment : SystemTime().monotonicNanoseconds()
    var first: Int64?
    for _ in 0..<12_000 {
      // What was on its way when the server died may still arrive.
      first =
        clients.firstAcknowledged(begunAfter: ended, butBy: agent == "salvor" ? network[primary].address : nil)?.end
      if first != nil { break }
      poll(nil, 0, 10)
    }
    guard let first else { throw BenchmarkError.wrong("nothing was acknowledged for two minutes") }
    if loss == .host { try restart(primary) }
    let seconds = Double(first - moment) / 1e9
    // A run takes long, and what was seen so far is worth something if it breaks off.
    FileHandle.standardError.write(Data("\(agent), \(loss.rawValue): \(seconds) s\n".utf8))
    return seconds
  }
}
