import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A protection, and what happens to real servers without it: each must be found by what a schedule is judged by.
package enum FailoverControl: String, Sendable, CaseIterable {
  case fenceBeforePromote = "fence-before-promote"
  case fenceQuorum = "fence-quorum"
  case mostComplete = "most-complete"
  case peers
  case epochCheck = "epoch-check"
  case selfStop = "self-stop"

  /// Taken away together: where two would each have prevented it, both go.
  package var protections: [String] {
    switch self {
    case .fenceBeforePromote, .fenceQuorum: [rawValue, "peers"]
    case .epochCheck: [rawValue, Self.selfStop.rawValue]
    default: [rawValue]
    }
  }

  package var mode: FailoverRoom.Mode {
    switch self {
    case .epochCheck, .selfStop: .bounded
    default: .zeroLoss
    }
  }

  package var says: String {
    switch self {
    case .fenceBeforePromote, .fenceQuorum: "half the members are cut off, and their primary still has a standby"
    case .mostComplete: "a standby that has missed the last of it is the first in the policy"
    case .peers: "two observers don't see the primary, and a standby does"
    case .epochCheck: "a command of a conductor whose time is over comes late"
    case .selfStop: "a primary that acknowledges by itself is cut off from all but its clients"
    }
  }

  /// Whether what came of it is what the protection is there to prevent.
  package func isRed(_ result: ScheduleRun.Result) -> Bool {
    let found = Set(result.verdict.findings.map(\.kind))
    switch self {
    case .fenceBeforePromote, .fenceQuorum: return found.contains(.zombie) || found.contains(.lost)
    case .mostComplete: return found.contains(.lost)
    case .peers: return result.failovers > 0
    case .epochCheck: return found.contains(.zombie)
    case .selfStop: return found.contains(.zombie) || found.contains(.tooMuchLost)
    }
  }

  /// Blocks. With the protections it must come to nothing.
  package func run(seed: UInt64, program: String, withProtections: Bool) throws -> ScheduleRun.Result {
    let schedule = FailoverSchedule(seed: seed, mode: mode, faults: [])
    return try ScheduleRun.carryOut(
      schedule, program: program, without: withProtections ? [] : protections,
      recoveryLimit: .seconds(withProtections ? 60 : 6)
    ) { run, result in
      try act(run)
      result.done.append(says)
    }
  }

  private func act(_ run: ScheduleRun) throws {
    let (room, network) = (run.room, run.room.network)
    switch self {
    case .fenceBeforePromote, .fenceQuorum:
      // `a` serves; clients reach everybody.
      for left in ["a", "c"] { for right in ["b", "witness", "store", "proxy"] { network.link(left, right, .cut) } }
      room.watch("b")
    case .mostComplete:
      network.link("a", "b", .cut)
      poll(nil, 0, 600)
      network.signal(SIGKILL, "postgres", on: "a")
      try room.waitUntil("another serves") { room.isPrimary("b") || room.isPrimary("c") }
    case .peers:
      for other in ["b", "witness"] { network.link("a", other, .cut) }
      room.watch("b", "c")
    case .epochCheck:
      network.signal(SIGKILL, "postgres", on: "a")
      try room.waitUntil("another serves") { room.isPrimary("b") || room.isPrimary("c") }
      let primary = try room.waitUntilWhole()
      let other = FailoverRoom.members.last { $0 != primary } ?? "c"
      // Epoch 1 was the first that anybody had.
      room.send("{\"promote\":{\"_0\":\"\(other)\",\"_1\":1}}", to: other)
      for number in 0..<40 {
        run.clients.append(Int64(1) << 60 | Int64(number), at: other, room)
        poll(nil, 0, 50)
      }
    case .selfStop:
      for other in network.hosts.map(\.name) where other != "a" && other != "client" { network.link("a", other, .cut) }
      room.watch("b", "c")
    }
  }
}

extension FailoverRoom {
  /// Until one of them serves, and a second longer; not for ever.
  fileprivate func watch(_ names: String...) {
    try? waitUntil("another serves", within: .seconds(15)) { names.contains { isPrimary($0) } }
    poll(nil, 0, 1000)
  }

  /// A command as another agent would send it.
  package func send(_ command: String, to name: String) {
    let host = network[name]
    let words = [
      "POST /v1/command HTTP/1.1", "Host: \(host.address)", "Authorization: Bearer not-a-secret-in-a-test",
      "Content-Type: application/json", "Content-Length: \(command.utf8.count)", "Connection: close", "", command,
    ]
    _ = try? exchange(words.joined(separator: "\r\n"), address: host.address, port: 7500, from: host)
  }
}
