import Core
import Glibc
import IO

/// A stretch of a log that was fetched into one file, for a restore that reads it more than once.
package struct SpilledPart: Sendable, Equatable {
  package var extent: LogExtent
  /// Where in the file its bytes begin.
  package var at: Int64

  package init(extent: LogExtent, at: Int64) { (self.extent, self.at) = (extent, at) }

  /// Fetches all of a log that is lent.
  ///
  /// - Parameters:
  ///   - path: The file; what was there goes.
  ///   - accept: Says whether a name is one of the store's files.
  /// - Throws: ``DriverError/corrupt(_:)`` for a stretch that isn't whole.
  package static func fetch(
    _ source: any LogSource, into path: String, on pool: BlockingPool, accept: (String) -> Bool
  ) async throws(DriverError) -> [SpilledPart] {
    do {
      let spill = try await pool.run { () throws(SystemFailure) -> File in
        try File(path, O_RDWR | O_CREAT | O_TRUNC)
      }
      var (parts, size): ([SpilledPart], Int64) = ([], 0)
      for extent in try await source.extents() {
        guard accept(extent.file), extent.from >= 0, extent.from < extent.to else {
          throw DriverError.corrupt("the log has a file '\(extent.file)', which is none of its own")
        }
        let part = SpilledPart(extent: extent, at: size)
        let count = Counted()
        try await source.read(extent) { offset, bytes in
          guard offset >= extent.from, offset + Int64(bytes.count) <= extent.to else {
            throw DriverError.corrupt("the log's \(extent.file) has bytes outside itself")
          }
          await count.add(Int64(bytes.count))
          try await pool.run { () throws(SystemFailure) in
            try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in
              try spill.write(raw, at: part.at + offset - extent.from)
            }
          }
        }
        guard await count.bytes == extent.to - extent.from else {
          throw DriverError.corrupt("the log's \(extent.file) is not whole")
        }
        parts.append(part)
        size += extent.to - extent.from
      }
      return parts
    } catch {
      if let inner = (error as? AnyFailure)?.underlying as? DriverError { throw inner }
      if let failure = error as? AnyFailure, failure.isCancellation { throw .cancelled }
      throw DriverError(error)
    }
  }

  private actor Counted {
    var bytes: Int64 = 0
    func add(_ count: Int64) { bytes += count }
  }
}
