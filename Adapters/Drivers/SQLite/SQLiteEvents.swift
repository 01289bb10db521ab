import Core
import DriverKit
import Glibc
import IO

extension SQLiteFollower {
  /// Transactions, each with the numbers of the pages it wrote: what was in them as SQL the log does not say.
  func events(
    in log: any LogSource, from start: LogCursor, scratch: String, limit: Int
  ) async throws(DriverError) -> [LogEvent]? {
    let pool = driver.pool
    let parts = try await SpilledPart.fetch(log, into: scratch, on: pool) { WALFile($0) != nil }
    return try await pool.run { () throws(DriverError) -> [LogEvent] in
      do throws(SystemFailure) { return try Self.read(parts, try File(scratch, O_RDONLY), from: start, limit) } catch {
        throw DriverError(error)
      }
    }
  }

  /// Blocks.
  private static func read(
    _ parts: [SpilledPart], _ spill: File, from start: LogCursor, _ limit: Int
  ) throws(SystemFailure) -> [LogEvent] {
    var events: [LogEvent] = []
    var pages: [JSONValue] = []
    for part in parts {
      guard let file = WALFile(part.extent.file), let first = file.frames(before: part.extent.from),
        let end = file.frames(before: part.extent.to)
      else { continue }
      let skipped = part.extent.file == start.file ? file.frames(before: start.offset) ?? first : first
      let head = part.extent.from == 0 ? Int64(WALFile.head.count) : 0
      var frame = first
      while frame < end, events.count < limit {
        let at = part.at + head + (frame - first) * Int64(file.recordBytes)
        frame += 1
        guard frame > skipped else { continue }
        let record = try spill.read(at: at, count: WALFile.timeBytes + WALFormat.frameHeaderBytes)
        guard record.count == WALFile.timeBytes + WALFormat.frameHeaderBytes else {
          throw SystemFailure("read", path: spill.path, number: EIO)
        }
        let (seen, page, commit) = record.withUnsafeBytes { raw in
          (
            Timestamp(nanoseconds: raw.loadUnaligned(as: Int64.self).bigEndian), WALSum.word(raw, WALFile.timeBytes),
            WALSum.word(raw, WALFile.timeBytes + 4)
          )
        }
        pages.append(.integer(Int64(page)))
        guard commit > 0 else { continue }
        events.append(
          LogEvent(
            end: file.cursor(after: frame),
            what: "a transaction of \(pages.count) pages seen at \(seen), frame \(file.salts):\(frame)",
            payload: ["pages": .array(pages), "seen": .string(seen.description)]))
        pages = []
      }
    }
    return events
  }
}
