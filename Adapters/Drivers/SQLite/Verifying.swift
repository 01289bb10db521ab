import Core
import DriverKit
import GRDBSQLite
import Glibc
import IO

extension SQLiteDriver {
  /// Proves that the file at `place` is the captured one, and sound.
  ///
  /// - Throws: ``DriverKit/DriverError/corrupt(_:)`` with the first thing that is wrong.
  func verify(_ place: String, _ capture: CaptureResult) async throws(DriverError) -> RestoredState {
    let (size, digest): (Int64, Digest)
    do {
      (size, digest) = try await pool.run { () throws(SystemFailure) in try Self.sum(of: place) }
    } catch {
      throw DriverError(error)
    }
    guard let expected = capture.facts["sha256"].flatMap({ Digest(hex: $0) }) else {
      throw .corrupt("the snapshot does not say what the database's SHA-256 was")
    }
    guard digest == expected else {
      throw .corrupt("the restored file's SHA-256 is \(digest.short)…, the captured one's was \(expected.short)…")
    }
    return RestoredState(
      position: capture.position, sizeBytes: size,
      proofs: ["the file's SHA-256 equals the captured one's"] + (try await checked(place)))
  }

  /// What SQLite itself says of a file that nobody writes to.
  func checked(_ place: String) async throws(DriverError) -> [String] {
    let database = try await pool.run { () throws(DriverError) -> Connection in try Connection(place, .immutable) }
    let result: Result<[String], DriverError>
    do throws(DriverError) {
      result = .success(try await database.run(on: pool) { (database) throws(DriverError) in try database.check() })
    } catch {
      result = .failure(error)
    }
    await pool.run { database.close() }
    return try result.get()
  }

  private static func sum(of path: String) throws(SystemFailure) -> (Int64, Digest) {
    let file = try File(path, O_RDONLY | O_NOFOLLOW)
    var digest = RunningDigest()
    var size: Int64 = 0
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while true {
      let count = try buffer.withMutableRawBytes { (raw) throws(SystemFailure) -> Int in
        let count = try file.read(into: raw)
        digest.update(UnsafeRawBufferPointer(rebasing: raw[..<count]))
        return count
      }
      if count == 0 { return (size, digest.finish()) }
      size += Int64(count)
    }
  }
}

extension Connection {
  /// SQLite's own checks. Rows that point nowhere are told, not refused: SQLite doesn't enforce foreign keys unless asked.
  func check() throws(DriverError) -> [String] {
    let statement = try Statement(self, "PRAGMA integrity_check(10)")
    var messages: [String] = []
    while try statement.step() { messages.append(statement.text(0) ?? "") }
    guard messages == ["ok"] else {
      throw .corrupt("\(path): integrity_check says: \(messages.joined(separator: "; "))")
    }
    let foreign = try Statement(self, "PRAGMA foreign_key_check")
    var dangling = 0
    while dangling < 1000, try foreign.step() { dangling += 1 }
    return [
      "integrity_check: ok",
      dangling == 0
        ? "foreign_key_check: ok"
        : "foreign_key_check: \(dangling == 1000 ? "at least " : "")\(dangling) rows point nowhere",
    ]
  }
}
