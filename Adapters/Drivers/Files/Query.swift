import Core
import DriverKit
import Glibc
import IO
import Synchronization

extension FilesDriver {
  /// `list PATTERN` gives `path` and `size` of every fitting regular file; `digests PATTERN` their `sha256` as well; `lines PATTERN` gives `path` and `line` of their
  /// text, without the line feeds. Patterns are those of ``PathPattern``; excluded files are not seen.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let words = text.split(separator: " ", maxSplits: 1).map(String.init)
    guard words.count == 2, ["list", "lines", "digests"].contains(words[0]), let pattern = PathPattern(words[1]) else {
      throw .queryFailed("'\(text)' is none of 'list PATTERN', 'digests PATTERN' and 'lines PATTERN'")
    }
    let kind = words[0]
    let reading = Reading(Tree(path, excludes: excludes), limit)
    do {
      return try await withTaskCancellationHandler {
        try await pool.run { () throws(DriverError) -> QueryResult in
          switch kind {
          case "list": try reading.list(pattern)
          case "digests": try reading.digests(pattern)
          default: try reading.lines(pattern)
          }
        }
      } onCancel: {
        reading.cancel()
      }
    } catch {
      throw DriverError(error)
    }
  }
}

/// One query, within its limits.
private final class Reading: Sendable {
  /// A longer line is no line: it would be a row that nobody can hold.
  private static let lineLimitBytes = 16 << 20

  private let tree: Tree
  private let limit: QueryLimit
  private let deadline: Int64
  private let isCancelled = Mutex(false)

  init(_ tree: Tree, _ limit: QueryLimit) {
    (self.tree, self.limit) = (tree, limit)
    let (sum, overflow) = SystemTime().monotonicNanoseconds().addingReportingOverflow(limit.timeout.wholeNanoseconds)
    deadline = overflow ? .max : sum
  }

  func cancel() { isCancelled.withLock { $0 = true } }

  private func check() throws(DriverError) {
    if isCancelled.withLock({ $0 }) { throw .cancelled }
    guard SystemTime().monotonicNanoseconds() < deadline else {
      throw .queryFailed("it took longer than \(limit.timeout.brief)")
    }
  }

  private func fitting(_ pattern: PathPattern) throws(DriverError) -> [TreeEntry] {
    try check()
    let entries = try tree.list().filter { $0.metadata.kind == .regular && pattern.fits($0.path) }
    try check()
    return entries
  }

  func list(_ pattern: PathPattern) throws(DriverError) -> QueryResult {
    let found = try fitting(pattern)
    return QueryResult(
      columns: ["path", "size"],
      rows: found.prefix(max(0, limit.rows)).map { [$0.path.description, "\($0.metadata.size)"] },
      isTruncated: found.count > limit.rows)
  }

  func digests(_ pattern: PathPattern) throws(DriverError) -> QueryResult {
    let found = try fitting(pattern)
    var result = QueryResult(columns: ["path", "size", "sha256"], rows: [], isTruncated: found.count > limit.rows)
    for entry in found.prefix(max(0, limit.rows)) {
      try check()
      do throws(SystemFailure) {
        let file = try tree.open(entry.path)
        result.rows.append(
          [entry.path.description, "\(file.status.st_size)", try FilesDriver.digest(of: file.file)])
      } catch {
        // Gone since it was listed.
        guard error.number == ENOENT else { throw Tree.error(error) }
      }
    }
    return result
  }

  func lines(_ pattern: PathPattern) throws(DriverError) -> QueryResult {
    var result = QueryResult(columns: ["path", "line"], rows: [])
    for entry in try fitting(pattern) {
      var line: [UInt8] = []
      let path = entry.path.description
      do {
        let file = try tree.open(entry.path).file
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
          try check()
          let count = try buffer.withMutableRawBytes { (raw) throws(SystemFailure) in try file.read(into: raw) }
          if count == 0 { break }
          for byte in buffer[..<count] {
            if byte == 10 {
              if result.rows.count >= limit.rows { return truncated(result) }
              result.rows.append([path, String(decoding: line, as: UTF8.self)])
              line.removeAll(keepingCapacity: true)
            } else {
              line.append(byte)
            }
          }
          guard line.count <= Self.lineLimitBytes else {
            throw DriverError.queryFailed("\(path) has a line of more than 16 MiB")
          }
        }
      } catch let error as SystemFailure {
        throw error.number == ENOENT ? .queryFailed("\(path) vanished while it was read") : Tree.error(error)
      } catch {
        throw DriverError(error)
      }
      if !line.isEmpty {
        if result.rows.count >= limit.rows { return truncated(result) }
        result.rows.append([path, String(decoding: line, as: UTF8.self)])
      }
    }
    return result
  }

  private func truncated(_ result: QueryResult) -> QueryResult {
    var copy = result
    copy.isTruncated = true
    return copy
  }
}
