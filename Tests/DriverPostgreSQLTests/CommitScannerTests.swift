import Core
import IO
import TestSupport
import Testing

@testable import DriverPostgreSQL

@Suite("Times of commits in the log") struct CommitScannerTests {
  @Test(.timeLimit(.minutes(10)), arguments: [7, 100, 8192, 100_000])
  func `every commit is found, however the log is cut`(_ pieceBytes: Int) async throws {
    let server = try await PostgreSQLServer.start(settings: ["max_prepared_transactions = 5"])
    do {
      try await server.sql("SELECT pg_switch_wal()", "CREATE TABLE work (n int, filler text)")
      for number in 1...20 {
        // Long records, which go over pages, and commits with much to say.
        try await server.sql(
          "INSERT INTO work SELECT \(number), repeat(md5(random()::text), 200) FROM generate_series(1, \(number))",
          "BEGIN; CREATE TABLE made\(number) (n int); CREATE INDEX ON made\(number) (n); DROP TABLE made\(number); COMMIT"
        )
      }
      try await server.sql("BEGIN; INSERT INTO work VALUES (1); ROLLBACK")
      try await server.sql("BEGIN; INSERT INTO work VALUES (2); PREPARE TRANSACTION 'two'")
      try await server.sql("COMMIT PREPARED 'two'")
      let last = try await server.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
      try await server.stop()
      let directory = server.data + "/pg_wal"
      let names = try Files.names(in: directory).map(\.lossyText).filter { $0.count == 24 && $0 <= last }
        .sorted()
      let geometry = try #require(LogGeometry(segmentBytes: 1 << 20))
      // What the engine's own reader finds; its last line is the end of the log.
      let listed = try await PostgreSQLServer.command(
        "bash",
        [
          "-c", "\"$0\" --rmgr=Transaction -p \"$1\" \"$2\" \"$3\" 2>/dev/null || true",
          PostgreSQLServer.program("pg_waldump"), directory, names[0], last,
        ], asOwner: false, environment: ["TZ": "UTC"])
      let expected = listed.split(separator: "\n").filter { $0.contains("desc: COMMIT") }.compactMap {
        line -> Timestamp? in
        guard let range = line.firstRange(of: "desc: COMMIT") else { return nil }
        let rest = line[range.upperBound...].drop { $0 != " " }.dropFirst()
        // COMMIT_PREPARED names its transaction first.
        let text = rest.drop { !$0.isNumber }
        guard let start = text.firstRange(of: "20") else { return nil }
        return Timestamp(text[start.lowerBound...].prefix(26).replacing(" ", with: "T") + "Z")
      }
      try #require(expected.count >= 40, "\(listed.prefix(2000))")
      var scanner = CommitScanner(geometry)
      var found: [Timestamp] = []
      for name in names {
        let place = try #require(geometry.place(of: .init(name, 0)))
        let bytes = try Files.read(directory + "/" + name)
        var offset = 0
        while offset < bytes.count {
          let piece = Array(bytes[offset..<min(bytes.count, offset + pieceBytes)])
          if let commits = scanner.scan(piece, at: LogSequenceNumber(place.position.value + UInt64(offset))) {
            found += Set([commits.first, commits.last]).sorted()
          }
          offset += piece.count
        }
      }
      if pieceBytes <= 100 {
        #expect(Set(found).symmetricDifference(expected).isEmpty, "\(found.count) of \(expected.count)")
      } else {
        #expect(!found.isEmpty && Set(found).isSubset(of: expected))
        #expect(found.first == expected.first && found.last == expected.last)
      }
      // Begun in the middle: what can't be understood is passed over, and later commits are found.
      var late = CommitScanner(geometry)
      let bytes = try Files.read(directory + "/" + names[0])
      let place = try #require(geometry.place(of: .init(names[0], 0)))
      let second = late.scan(Array(bytes[100_003...]), at: LogSequenceNumber(place.position.value + 100_003))
      if let second { #expect(expected.contains(second.first) && expected.contains(second.last)) }
    } catch {
      await server.shutDown()
      throw error
    }
    await server.shutDown()
  }
}
