import Core
import DriverKit
import ReplicatedEngineContract
import TestSupport
import Testing

/// A former primary is started before it is known who serves, and then told to follow: it asks for what it doesn't have,
/// and not for what it wrote itself.
@Suite("Former primaries of MariaDB", .serialized) struct MariaDBReturnTests {
  @Test(.timeLimit(.minutes(10))) func `those that wrote nothing alone go on where they stood, turn after turn`()
    async throws
  {
    try await withTrio { trio in
      var keys: Set<String> = []
      for (turn, (old, new)) in ([("a", "c"), ("c", "a"), ("a", "c")] as [(MemberName, MemberName)]).enumerated() {
        try await write(3, "turn-\(turn)", on: old, trio, into: &keys)
        for other in ["b", new] as [MemberName] { try await trio.untilKeys(other, beating: old) { $0 == keys } }
        try await handOver(old, new, trio)
        try await write(3, "after-\(turn)", on: new, trio, into: &keys)
        try await comeBack(old, new, trio, keys)
      }
    }
  }

  @Test(.timeLimit(.minutes(10))) func `one that has what nobody else has begins anew`() async throws {
    try await withTrio { trio in
      var keys: Set<String> = []
      try await write(3, "early", on: "a", trio, into: &keys)
      for other in ["b", "c"] as [MemberName] { try await trio.untilKeys(other, beating: "a") { $0 == keys } }
      try await trio.engine("b").detach()
      try await trio.engine("c").detach()
      _ = try await trio.write("alone", on: "a")
      try await handOver("a", "c", trio)
      try await write(3, "late", on: "c", trio, into: &keys)
      try await comeBack("a", "c", trio, keys)
    }
  }

  /// A primary that is slow to answer looks, for as long, like one that sends.
  @Test(.timeLimit(.minutes(10))) func `one that is refused late begins anew as well`() async throws {
    try await withTrio { trio in
      #expect(try await trio.write("shared", on: "a"))
      for other in ["b", "c"] as [MemberName] { try await trio.untilKeys(other, beating: "a") { $0 == ["shared"] } }
      try await trio.engine("b").detach()
      try await trio.engine("c").detach()
      _ = try await trio.write("alone", on: "a")
      try await handOver("a", "c", trio)
      let port = try freePort()
      let link = try PipedProcess(["python3", "-c", Self.slowLink, "\(port)", "\(trio.servers["c"]!.port)"])
      defer { link.kill() }
      let late = trio.member("a", reaching: "c", at: port)
      try await late.start(detached: true)
      try await late.follow("c")
      #expect(try await late.facts().following == "c")
      try await trio.untilKeys("a", beating: "c") { $0 == ["shared"] }
    }
  }

  /// Passes connections on, and what comes back a tenth of a second late.
  private static let slowLink = """
    import socket, sys, threading, time
    def pump(source, target, delay):
        while data := source.recv(65536):
            time.sleep(delay)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
        threading.Thread(target=pump, args=(near, far, 0), daemon=True).start()
        threading.Thread(target=pump, args=(far, near, 0.1), daemon=True).start()
    """

  @Test(.timeLimit(.minutes(10))) func `one that receives and can't apply it doesn't count as following`() async throws
  {
    try await withTrio { trio in
      #expect(try await trio.write("first", on: "a"))
      try await trio.untilKeys("b", beating: "a") { $0 == ["first"] }
      _ = try await trio.facts("b", beating: "a") { $0.isStreaming }
      // Somebody took the table away there; the next write can't be applied.
      try await trio.servers["b"]!.sql("SET SESSION sql_log_bin = 0", "DROP TABLE shop.keys")
      #expect(try await trio.write("second", on: "a"))
      let facts = try await trio.facts("b", beating: "a") { !$0.isStreaming }
      #expect(facts.following == "a")
    }
  }

  private func withTrio(_ body: (MariaDBTrio) async throws -> Void) async throws {
    let trio = try await MariaDBTrio.start(isBounded: false)
    do { try await body(trio) } catch {
      await trio.end()
      throw error
    }
    await trio.end()
  }

  private func write(
    _ count: Int, _ name: String, on member: MemberName, _ trio: MariaDBTrio, into keys: inout Set<String>
  ) async throws {
    for number in 0..<count {
      #expect(try await trio.write("\(name)-\(number)", on: member))
      keys.insert("\(name)-\(number)")
    }
  }

  /// `old` crashes, and `new` serves in its place.
  private func handOver(_ old: MemberName, _ new: MemberName, _ trio: MariaDBTrio) async throws {
    try await trio.crash(old)
    try await trio.engine("b").detach()
    try await trio.engine(new).detach()
    try await trio.engine(new).promote()
    try await trio.engine("b").follow(new)
    _ = try await trio.facts(new, beating: new) { $0.attached == ["b"] && $0.acknowledges }
  }

  private func comeBack(
    _ member: MemberName, _ primary: MemberName, _ trio: MariaDBTrio, _ keys: Set<String>
  ) async throws {
    try await trio.engine(member).start(detached: true)
    try await trio.engine(member).follow(primary)
    _ = try await trio.facts(member, beating: primary) { $0.following == primary && $0.isStreaming }
    try await trio.untilKeys(member, beating: primary) { $0 == keys }
  }
}
