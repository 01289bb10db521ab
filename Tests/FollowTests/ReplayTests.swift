import Core
import IO
import TestSupport
import Testing

@Suite("Replaying SQLite", .serialized) struct SQLiteReplayTests {
  @Test(.timeLimit(.minutes(10)))
  func `SQLite: transactions lead to the same digest twice`() async throws {
    try await SQLiteSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      for number in 1...12 { try await it.run("INSERT INTO history (filler) VALUES ('row \(number)')") }
      try await it.settle()
      let report = try await it.site.json("replay", "shop-log")
      #expect(report["verdict"]?.string == "same", "\(report)")
      #expect(report["events"]?.integer == 15, "twelve, and three that settle: \(report)")
      let digests = (report["digests"]?.array ?? []).compactMap(\.string)
      #expect(digests.count == 2 && Set(digests).count == 1)
      // Another end is another state.
      try await it.run("INSERT INTO history (filler) VALUES ('one more')")
      try await it.settle()
      let more = try await it.site.json("replay", "shop-log")
      #expect(more["verdict"]?.string == "same" && more["digests"]?.array?.first?.string != digests.first)
      let live = try await it.site.salvor("reconcile", "histories", "shop-log", "latest", "live", "-o", "json")
      #expect(live.status == 4, "\(live.errors)")
      let histories = try CanonicalJSON.decode(JSONValue.self, from: Array(live.output.utf8))
      let table = histories["tables"]?.array?.first { $0["name"]?.string == "history" }
      #expect(table?["onlyRight"]?.integer == 13 && table?["onlyLeft"]?.integer == 0, "\(live.output)")
    }
  }

}

@Suite("Replaying Redis", .serialized) struct RedisReplayTests {
  @Test(.timeLimit(.minutes(10)))
  func `Redis: commands lead to the same digest twice, and a program's whim is named`() async throws {
    try await RedisSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      for number in 1...40 { try await it.command("SET", "key:\(number)", "it's \"\(number)\"\n") }
      try await it.commands([["MULTI"], ["INCR", "a"], ["INCR", "b"], ["EXEC"]])
      try await it.settle()
      let report = try await it.site.json("replay", "shop-log")
      #expect(report["verdict"]?.string == "same", "\(report)")
      // One may be the database's choice.
      let events = report["events"]?.integer ?? 0
      #expect((42...43).contains(events), "\(report)")
      for (body, name) in [
        ("$(od -An -N8 -tx8 /dev/urandom)", "chance"), ("$(date +%s%N)", "the clock"),
        ("$(seq 99999 | shuf | cksum)", "an order by chance"), ("", "nothing"),
      ] {
        let program = it.site.home.file("consumer")
        try Files.replace(program, with: Array(Self.consumer(planting: body, at: 37).utf8), mode: 0o755)
        let ran = try await it.site.salvor("replay", "shop-log", "--program", "/bin/sh \(program)", "-o", "json")
        #expect(ran.status == (body.isEmpty ? 0 : 4), "\(name): \(ran.errors)")
        let found = try CanonicalJSON.decode(JSONValue.self, from: Array(ran.output.utf8))["difference"]
        #expect(found?["event"]?.integer == (body.isEmpty ? nil : 36), "\(name): \(ran.output)")
      }
    }
  }

  /// Keeps a running sum of what it reads; from one event on also of something else.
  static func consumer(planting what: String, at number: Int) -> String {
    """
    s=0
    n=0
    while IFS= read -r line; do
      n=$((n+1))
      s=$(printf '%s%s' "$s" "$line" | cksum)
      if [ $n -eq \(number) ]; then s="$s\(what)"; fi
      printf '{"digest": "%s"}\\n' "$(printf %s "$s" | cksum | tr ' ' -)"
    done
    """
  }
}
