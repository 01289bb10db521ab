import Core
import Governance
import IO
import Recovery
import StateKit
import Vault

/// The log and the records in a repository, as one snapshot of plain files that stock tools bring back.
///
/// So a repository and its key are enough to verify what was done; and where objects are locked, the repository is a witness:
/// a log that does not go on from the copy there is refused.
package struct EvidenceCopies: Sendable {
  package static let tag = "salvor-evidence"

  private let vault: Repository
  private let host: Machine

  init(_ vault: Repository, host: Machine) { (self.vault, self.host) = (vault, host) }

  /// A copy of a log, as a repository has it.
  struct Found: Sendable {
    var id: Digest
    var time: Timestamp
    var head: TreeHead
  }

  /// The copies of one log, oldest first.
  func list(_ origin: String, keys: [NoteKey]) async throws -> [Found] {
    var found: [Found] = []
    for stored in try await vault.snapshots() where stored.snapshot.tags.contains(Self.tag) {
      guard stored.snapshot.tags.contains("log:\(Digest.of(origin).hex.prefix(16))") else { continue }
      let tree = SnapshotTree(reader: vault, root: stored.snapshot.tree, pool: host.pool)
      let bytes = try await tree.contents(of: "log/checkpoint", limitBytes: SignedNote.limitBytes)
      let checkpoint = try Checkpoint(bytes, trusting: keys)
      found.append(Found(id: stored.id, time: stored.snapshot.time, head: checkpoint.head))
    }
    return found.sorted { ($0.head.size, $0.time) < ($1.head.size, $1.time) }
  }

  /// - Throws: ``LogError/fork(origin:oldSize:newSize:)`` or ``LogError/wentBack(origin:seen:found:)`` if the log does not go on
  ///   from what is there.
  func require(_ log: OpenLog, keys: [NoteKey]) async throws -> [Found] {
    _ = try await vault.refreshIndex()
    let copies = try await list(log.log.origin, keys: keys)
    for copy in copies {
      let (reader, head) = (log.reader, log.checkpoint.head)
      guard copy.head.size <= head.size else {
        throw LogError.wentBack(origin: head.origin, seen: copy.head.size, found: head.size)
      }
      let root = try await host.pool.run { () throws(LogError) in try reader.root(at: copy.head.size) }
      guard root == copy.head.root else {
        throw LogError.fork(origin: head.origin, oldSize: copy.head.size, newSize: head.size)
      }
    }
    return copies
  }

  /// Writes a new copy; of the older ones the newest stays.
  func write(_ log: OpenLog, keys: [NoteKey]) async throws {
    let copies = try await require(log, keys: keys)
    if copies.last?.head == log.checkpoint.head { return }
    let builder = SnapshotBuilder(vault, pool: host.pool)
    let now = host.time.now()
    let state = host.stateDirectory
    let paths = try await host.pool.run { () throws(SystemFailure) in
      try Self.files(below: "log", in: state) + Self.files(below: "evidence", in: state)
    }
    for path in paths {
      let full = "\(state)/\(path)"
      // The checkpoint that was looked at, not one that came meanwhile.
      let bytes =
        path == "log/checkpoint"
        ? log.checkpoint.encoded
        : try await host.pool.run { () throws(SystemFailure) in try Files.read(full, limitBytes: 1 << 28) }
      let metadata = FileMetadata(kind: .regular, permissions: 0o600, size: Int64(bytes.count), modified: now)
      _ = try await builder.add(TreePath(path), metadata, cutting: .content) { MemorySource(bytes) }
    }
    let tree = try await builder.finish()
    try await vault.flush()
    _ = try await vault.save(
      Snapshot(
        time: now, tree: tree.root, paths: ["/salvor-evidence"], hostname: host.name,
        tags: [
          "salvor", Self.tag, "log:\(Digest.of(log.log.origin).hex.prefix(16))", "size:\(log.checkpoint.head.size)",
        ]
      ))
    // Where nothing may be removed they all stay, and each is a witness of its own.
    for old in copies.dropLast() { try? await vault.forget(old.id) }
  }

  private static func files(below path: String, in state: String) throws(SystemFailure) -> [String] {
    guard Files.exists("\(state)/\(path)") else { return [] }
    var result: [String] = []
    for name in try Files.names(in: "\(state)/\(path)").map(\.lossyText) where !name.hasPrefix(".") {
      let inner = "\(path)/\(name)"
      if Files.isDirectory("\(state)/\(inner)") {
        result += try files(below: inner, in: state)
      } else if inner != "log/lock", inner != "log/next" {
        result.append(inner)
      }
    }
    return result
  }
}

extension EvidenceLog {
  /// Copies log and records into a repository, whose lock is held; what is done is done whether or not that works now.
  func copyOrWarn(toHeld vault: Repository) async {
    do {
      let log = try await open()
      try await EvidenceCopies(vault, host: host).write(log, keys: log.log.keys)
      await vault.settleCopies(host.log)
    } catch {
      host.log(
        "warning: the evidence could not be copied to \(vault.store.location): \(AnyFailure(error).report.description)")
    }
  }

  /// Compares the log with the copies that repositories have of it.
  ///
  /// - Returns: How many were looked at, and the size of the newest.
  package func compare(
    withCopiesIn system: ManagedSystem
  ) async throws(AnyFailure) -> [(repository: String, copies: Int, newest: Int64)] {
    let log = try await open()
    var result: [(String, Int, Int64)] = []
    do {
      for repository in system.repositories {
        let copies = try await EvidenceCopies(try await system.vault(of: repository.name), host: host).require(
          log, keys: log.log.keys)
        result.append((repository.name.text, copies.count, copies.last?.head.size ?? 0))
      }
      return result
    } catch { throw AnyFailure(error) }
  }
}
