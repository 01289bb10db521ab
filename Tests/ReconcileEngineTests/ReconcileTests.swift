import Core
import Foundation
import IO
import TestSupport
import Testing

@Suite("Reconciling live stores", .serialized) struct ReconcileTests {
  @Test(.timeLimit(.minutes(10)))
  func `what is planted is found with its keys, corrected with consent, and then gone`() async throws {
    try await ReconcileSite.with { it in
      #expect(try await it.find().found == [])
      let planted = try await plant(it)
      let (id, found) = try await it.find()
      #expect(found == planted, "\(found.symmetricDifference(planted).sorted())")
      let digest = try await it.propose(id)
      // Nothing was changed so far, and nothing is by another digest.
      let refused = try await it.salvor(
        "reconcile", "apply", id, "--consent", String(digest.reversed()))
      #expect(refused.status == 6 && refused.errors.contains("RECON-203"), "\(refused.errors)")
      #expect(try await it.salvor("reconcile", "apply", id).status == 2)
      #expect(try await it.find().found == planted)
      let (status, outcome) = try await it.apply(id, digest)
      #expect(status == 0, "\(outcome)")
      #expect(outcome["made"]?.integer == Int64(planted.count), "\(outcome)")
      #expect(outcome["before"]?.integer == Int64(planted.count) && outcome["after"]?.integer == 0)
      #expect(try await it.find().found == [])
      // Set aside, not lost.
      #expect(Files.exists(it.home.file(".salvor-aside-receipts/stray 'file'.txt")))
      // Again is nothing.
      let again = try await it.apply(id, digest)
      #expect(again.status == 0 && again.outcome["before"]?.integer == 0, "\(again.outcome)")
      let ran = try Files.read(it.home.file("ran"))
      #expect(ran.split(separator: 10).count == 1, "a program runs once for a finding")
    }
  }

  /// Breaks what agreed, in each way.
  private func plant(_ it: ReconcileSite) async throws -> Set<String> {
    var planted: [String] = []
    // Missing, an orphan, one that changed and one that is there twice; each under keys that nobody is nice to.
    for (number, key) in hostileKeys.enumerated() {
      switch number % 3 {
      case 0:
        try await it.ledger("DELETE FROM transfers WHERE id = \(it.text(key))")
        try await it.cache("DEL", "transfer:\(key)")
        planted.append(contentsOf: ["ledger-of-transfers missing \(key)", "cache-of-transfers missing transfer:\(key)"])
      case 1:
        try await it.ledger("UPDATE transfers SET amount = \(it.text("x" + key)) WHERE id = \(it.text(key))")
        try await it.cache("SET", "transfer:\(key)", "x\(key)")
        planted.append(contentsOf: ["ledger-of-transfers changed \(key)", "cache-of-transfers changed transfer:\(key)"])
      default:
        try await it.ledger("INSERT INTO transfers SELECT * FROM transfers WHERE id = \(it.text(key))")
        planted.append("ledger-of-transfers duplicate \(key)")
      }
      let stray = "stray" + key
      try await it.ledger(
        "INSERT INTO transfers VALUES (\(it.text(stray)), \(it.text(key)), NULL, '2020-01-01 00:00:00+00')")
      try await it.cache("SET", "transfer:\(stray)", key)
      planted.append(contentsOf: ["ledger-of-transfers orphan \(stray)", "cache-of-transfers orphan transfer:\(stray)"])
    }
    try Files.replace(it.home.file("receipts/stray 'file'.txt"), with: Array("x".utf8))
    try Files.removeTree(it.home.file("receipts/t3.txt"))
    planted.append(contentsOf: [
      "receipts-of-transfers orphan stray 'file'.txt", "receipts-of-transfers broken-link t3.txt",
    ])
    return Set(planted.map(plain))
  }

  @Test(.timeLimit(.minutes(10)))
  func `a row that changed meanwhile is left, and told`() async throws {
    try await ReconcileSite.with { it in
      try await it.ledger("UPDATE transfers SET amount = 'wrong' WHERE id IN ('t1', 't2')")
      try await it.cache("SET", "transfer:t1", "wrong")
      let (id, found) = try await it.find()
      #expect(found.count == 3)
      let digest = try await it.propose(id)
      try await it.ledger("UPDATE transfers SET amount = 'another' WHERE id = 't1'")
      try await it.cache("SET", "transfer:t1", "another")
      let (status, outcome) = try await it.apply(id, digest)
      #expect(status == 3, "\(outcome)")
      #expect(outcome["made"]?.integer == 1 && outcome["left"]?.array?.count == 2, "\(outcome)")
      #expect(try await it.ledger("SELECT amount FROM transfers WHERE id = 't1'") == "another\n")
      #expect(try await it.cache("GET", "transfer:t1") == "another\n")
      #expect(try await it.ledger("SELECT amount FROM transfers WHERE id = 't2'") == "1\n")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `killed at any moment and begun again, each correction is made once`() async throws {
    try await ReconcileSite.with { it in
      // A counter that a second making would show.
      try await it.ledger(
        """
        CREATE TABLE made (id TEXT); CREATE TRIGGER making AFTER INSERT ON transfers
        BEGIN INSERT INTO made VALUES (NEW.id); END; DELETE FROM transfers WHERE id GLOB 't[0-9]*';
        """)
      for number in 1...20 { try Files.removeTree(it.home.file("receipts/t\(number).txt")) }
      let (id, found) = try await it.find()
      #expect(found.count == ReconcileSite.rows + 20)
      let digest = try await it.propose(id)
      func lines() -> Int { ((try? Files.read(it.home.file("ran"))) ?? []).count { $0 == 10 } }
      var kills = 0
      var status: Int32 = -1
      for round in 1...40 {
        let process = try it.started("reconcile", "apply", id, "--consent", digest, "-q")
        let had = lines()
        let made = Int(try await it.ledger("SELECT count(*) FROM made").filter(\.isNumber)) ?? 0
        // Killed among the statements at first, and then a few programs later each time.
        while process.isRunning, lines() < had + 1 + round % 4 {
          if round <= 3, Int(try await it.ledger("SELECT count(*) FROM made").filter(\.isNumber)) ?? 0 > made { break }
          try await Task.sleep(for: .milliseconds(2))
        }
        if process.isRunning {
          process.kill()
          kills += 1
        } else {
          status = process.wait()
          break
        }
      }
      #expect(kills > 2, "it was killed on the way")
      if status != 0 { status = try await it.apply(id, digest).status }
      #expect(status == 0)
      #expect(try await it.find().found == [])
      #expect(try await it.ledger("SELECT count(*), count(DISTINCT id) FROM made") == "60|60\n")
      let ran = String(decoding: try Files.read(it.home.file("ran")), as: UTF8.self).split(separator: "\n")
      // Only one that was killed between its end and its record can have run again, under the same name.
      #expect(Set(ran).count == 20 && ran.count <= 20 + kills, "\(ran.count)")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `the copies of a point are compared, and two histories, on every engine`() async throws {
    try await ReconcileSite.with { it in
      try await it.salvor("backup", "-q").succeeded()
      try await it.server.sql(
        "DELETE FROM transfers WHERE id = 't1'", "UPDATE transfers SET amount = 'new' WHERE id = 't2'",
        "INSERT INTO transfers (id) VALUES ('t99')")
      try await it.cache("DEL", "transfer:t1")
      try await it.cache("SET", "transfer:t2", "new")
      try await it.cache("SET", "transfer:t99", "new")
      try await it.ledger(
        "DELETE FROM transfers WHERE id = 't1'; UPDATE transfers SET amount = 'new' WHERE id = 't2'; INSERT INTO transfers (id) VALUES ('t99')"
      )
      try Files.removeTree(it.home.file("receipts/t1.txt"))
      try Files.replace(it.home.file("receipts/t2.txt"), with: [1])
      try Files.replace(it.home.file("receipts/t99.txt"), with: [1])
      // The point agrees with itself, whatever became of the system since.
      #expect(try await it.find("--point", "latest").found == [])
      for (store, table) in [
        ("bank-db", "public.transfers"), ("ledger", "transfers"), ("cache", "keys"), ("receipts", "files"),
      ] {
        let ran = try await it.salvor("reconcile", "histories", store, "latest", "live", "-o", "json")
        #expect(ran.status == 4, "\(store): \(ran.errors)")
        let report = try CanonicalJSON.decode(JSONValue.self, from: Array(ran.output.utf8))
        let found = report["tables"]?.array?.first { $0["name"]?.string == table }
        let counts = ["onlyLeft", "onlyRight", "changed"].map { found?[$0]?.integer }
        // A table without a key knows no rows that changed: they are others.
        #expect(counts == (store == "ledger" ? [2, 2, 0] : [1, 1, 1]), "\(store): \(ran.output.prefix(2000))")
        #expect(try await it.salvor("reconcile", "histories", store, "latest", "latest").status == 0)
      }
    }
  }
}
