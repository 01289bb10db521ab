import Core
import IO
import Reconciliation

#if canImport(Glibc)
  import Glibc
#endif

/// Reports and proposals, in `reconcile/` of the state directory; they hold rows of the stores, so they are its owner's alone.
struct ReportShelf: Sendable {
  let host: Machine

  private static let limitBytes = 1 << 30

  func directory(_ id: String) -> String { host.path("reconcile/\(id)") }

  func save(_ report: ReconciliationReport) async throws {
    let (directory, bytes) = (directory(report.id), try CanonicalJSON.encode(report))
    let parent = host.path("reconcile")
    try await host.pool.run { () throws(SystemFailure) in
      try Files.createDirectory(parent, mode: 0o700)
      try Files.createDirectory(directory, mode: 0o700)
      try Files.replace("\(directory)/report.json", with: bytes)
    }
  }

  func save(_ proposal: Proposal) async throws {
    let (path, bytes) = ("\(directory(proposal.report))/proposal.json", try CanonicalJSON.encode(proposal))
    try await host.pool.run { () throws(SystemFailure) in try Files.replace(path, with: bytes) }
  }

  func ids() async throws -> [String] {
    let parent = host.path("reconcile")
    return try await host.pool.run { () throws(SystemFailure) in
      guard Files.exists(parent) else { return [] }
      return try Files.names(in: parent).map(\.lossyText).filter { Files.exists("\(parent)/\($0)/report.json") }
        .sorted()
    }
  }

  /// - Parameter text: An id, or its beginning.
  func report(_ text: String) async throws -> ReconciliationReport {
    let ids = try await ids()
    let found = ids.contains(text) ? [text] : ids.filter { $0.hasPrefix(text) || $0.hasSuffix("-" + text) }
    guard let id = found.first else { throw ReconciliationError.noSuchReport(text) }
    guard found.count == 1 else { throw ReconciliationError.ambiguous(text) }
    return try await read(ReconciliationReport.self, "\(directory(id))/report.json")
  }

  func proposal(_ id: String) async throws -> Proposal? {
    let path = "\(directory(id))/proposal.json"
    guard await host.pool.run({ Files.exists(path) }) else { return nil }
    return try await read(Proposal.self, path)
  }

  /// Keeps other applications of a report out for as long as the file is held; a process that dies lets go.
  func lock(_ id: String) async throws -> File {
    let path = "\(directory(id))/lock"
    return try await host.pool.run {
      let file = try File(path, O_RDWR | O_CREAT)
      guard flock(file.descriptor, LOCK_EX | LOCK_NB) == 0 else { throw ReconciliationError.atWork(id) }
      return file
    }
  }

  private func read<T: Decodable & Sendable>(_ type: T.Type, _ path: String) async throws -> T {
    let bytes = try await host.pool.run { () throws(SystemFailure) in
      try Files.read(path, limitBytes: Self.limitBytes)
    }
    do { return try CanonicalJSON.decode(type, from: bytes) } catch {
      throw ReconciliationError.damaged(path)
    }
  }
}
