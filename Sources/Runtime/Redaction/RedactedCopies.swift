import Catalog
import Core
import DriverKit
import IO
import Recovery
import Redaction
import StateKit

#if canImport(Glibc)
  import Glibc
#endif

/// Delivers copies of a point in which nobody is recognised: restored in private, made anew row by row, and only then shown.
package struct RedactedCopies: Sendable {
  package struct Request: Sendable {
    package var policyFile: String
    /// Where the copy goes; nothing is there.
    package var directory: String
    /// Empty means all that the policy names.
    package var stores: [StoreName] = []
    package var point: String?
    package var verifies = true

    package init(policyFile: String, directory: String) { (self.policyFile, self.directory) = (policyFile, directory) }
  }

  /// What lies beside the stores of a copy, as `redaction.json`.
  package struct Delivered: Sendable, Codable, Equatable {
    package static let format = "salvor.dev/redacted/v1"
    package static let name = "redaction.json"

    package struct Store: Sendable, Codable, Equatable {
      package var driver: DriverName
      /// Relative to the directory.
      package var path: String
      package var count: RewriteCount
    }

    package var format = Delivered.format
    package var policy: String
    package var policyDigest: Digest
    package var point: String
    package var pointTime: Timestamp
    package var stores: [StoreName: Store]
  }

  /// Whether a policy has a word for everything.
  package struct Checked: Sendable, Codable, Equatable {
    package var policy: String
    package var point: String
    package var tables: Int
    package var columns: Int
    package var entries: Int
    package var problems: [String]
  }

  package let system: ManagedSystem
  let journal: any RunJournal

  package init(_ system: ManagedSystem, journal: any RunJournal) { (self.system, self.journal) = (system, journal) }

  private var restore: PrivateRestore { PrivateRestore(system: system) }

  private func policy(_ file: String) async throws -> (RedactionPolicy, Digest) {
    let bytes = try await system.host.pool.run { () throws(SystemFailure) in try Files.read(file, limitBytes: 8 << 20) }
    return (try RedactionPolicy(String(decoding: bytes, as: UTF8.self), file: file), Digest.of(bytes))
  }

  private func stores(_ policy: RedactionPolicy, _ asked: [StoreName]) throws -> [StoreName] {
    let all = asked.isEmpty ? policy.stores.keys.sorted() : asked
    for name in all where system.catalog.store(name) == nil { throw RecoveryError.noSuchStore(name) }
    return all
  }

  // MARK: Copies

  package func copy(
    _ request: Request, progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> Delivered {
    try await wrapped {
      let (policy, digest) = try await policy(request.policyFile)
      let stores = try stores(policy, request.stores)
      let key = try PseudonymKey(try await system.host.secrets.resolve(policy.key))
      guard try await system.host.pool.run({ () throws(SystemFailure) in try !Files.isThere(request.directory) }) else {
        throw RedactionError.destination(request.directory, why: "is there already")
      }
      let chosen = try await restore.choose(
        stores, point: request.point, verifies: request.verifies, progress: progress)
      let details: JSONValue = [
        "policy": .string(policy.name), "policyDigest": .string(digest.hex), "point": .string(chosen.facts.id),
        "stores": .array(stores.map { .string($0.text) }),
      ]
      return try await RecordedAct.carryOut(
        .redaction, "redact/\(policy.name)", details: details, host: system.host, journal: journal
      ) { _ in
        let delivered = try await PrivateRestore.withWorkspace(beside: request.directory, host: system.host) { work in
          let made = "\(work)/made"
          try Files.createDirectory(made, mode: 0o711)
          var delivered = Delivered(
            policy: policy.name, policyDigest: digest, point: chosen.facts.id, pointTime: chosen.point.time, stores: [:]
          )
          for one in try await restoredAndChecked(policy, chosen, stores, work, progress) {
            progress("redact \(one.store)")
            let place = "\(made)/\(one.store)"
            try Files.createDirectory(place, mode: 0o711)
            let count = try await one.rewriter.rewrite(
              to: "\(place)/\(one.entry)", by: Redactor(policy, for: one.store, key))
            delivered.stores[one.store] = .init(driver: one.driver, path: "\(one.store)/\(one.entry)", count: count)
          }
          // What was restored is gone before what was made has its name.
          try await system.host.pool.run { try Files.removeTree("\(work)/restored") }
          try await show(delivered, made, as: request.directory)
          return delivered
        }
        return (delivered, details)
      }
    }
  }

  private func restoredAndChecked(
    _ policy: RedactionPolicy, _ chosen: PointSelection.Chosen, _ stores: [StoreName], _ work: String,
    _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> [PrivateRestore.Restored] {
    let restored = try await restored(chosen, stores, work, progress)
    var problems: [String] = []
    for one in restored { problems += policy.problems(of: one.store, try await one.rewriter.shape()) }
    guard problems.isEmpty else { throw RedactionError.refused(problems) }
    return restored
  }

  private func restored(
    _ chosen: PointSelection.Chosen, _ stores: [StoreName], _ work: String,
    _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> [PrivateRestore.Restored] {
    let raw = "\(work)/restored"
    try Files.createDirectory(raw, mode: 0o711)
    return try await restore.restore(chosen, stores, in: raw, progress: progress)
  }

  /// Gives the copy its name, durably, all at once.
  private func show(_ delivered: Delivered, _ made: String, as directory: String) async throws {
    let bytes = Array(try CanonicalJSON.text(delivered, pretty: true).utf8)
    try await system.host.pool.run {
      try Files.replace("\(made)/\(Delivered.name)", with: bytes, mode: 0o644)
      for store in delivered.stores.keys { _ = chmod("\(made)/\(store)", 0o755) }
      guard chmod(made, 0o755) == 0 else { throw SystemFailure("chmod", path: made) }
      // Every file of it, whoever wrote it; on Linux it returns when that is done.
      sync()
      try Files.renameExclusive(made, to: directory)
      try Files.synchronizeDirectory(Files.parent(of: directory))
    }
  }

  // MARK: Policies

  /// Whether the policy speaks of everything that a point's stores hold. Nothing is made.
  package func check(
    _ request: Request, progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> Checked {
    try await wrapped {
      let (policy, _) = try await policy(request.policyFile)
      let stores = try stores(policy, request.stores)
      let chosen = try await restore.choose(
        stores, point: request.point, verifies: request.verifies, progress: progress)
      return try await PrivateRestore.withWorkspace(beside: request.directory, host: system.host) { work in
        var checked = Checked(
          policy: policy.name, point: chosen.facts.id, tables: 0, columns: 0, entries: 0, problems: [])
        for one in try await restored(chosen, stores, work, progress) {
          let shape = try await one.rewriter.shape()
          checked.tables += shape.tables.count
          checked.columns += shape.tables.reduce(0) { $0 + $1.columns.count }
          checked.entries += shape.entries?.count ?? 0
          checked.problems += policy.problems(of: one.store, shape)
        }
        return checked
      }
    }
  }

  /// A first policy for stores of a point.
  package func suggest(
    name: String, _ request: Request, progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> String {
    try await wrapped {
      let stores = request.stores.isEmpty ? system.catalog.stores.map(\.name) : request.stores
      let chosen = try await restore.choose(
        stores, point: request.point, verifies: request.verifies, progress: progress)
      return try await PrivateRestore.withWorkspace(beside: request.directory, host: system.host) { work in
        var draft = PolicyDraft()
        for one in try await restored(chosen, stores, work, progress) {
          let samples = Samples()
          try await one.rewriter.read(limit: 50) { piece throws(AnyFailure) in samples.take(piece) }
          draft.add(one.store, try await one.rewriter.shape(), isFiles: one.driver == "files", samples: samples.all)
        }
        return draft.text(name: name)
      }
    }
  }
}

/// A few values of each column; filled by one thread at a time.
private final class Samples: @unchecked Sendable {
  private(set) var all: [String: [String]] = [:]

  func take(_ piece: ContentPiece) {
    guard case .row(let values, let table) = piece else { return }
    for (column, value) in zip(table.columns.filter { !$0.isGenerated }, values) {
      let text: String
      switch value {
      case .text(let value): text = value
      case .integer(let value): text = String(value)
      default: continue
      }
      all["\(table.name).\(column.name)", default: []].append(text)
    }
  }
}

extension RunKind {
  static let redaction: RunKind = "redaction"
}
