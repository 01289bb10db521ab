import Catalog
import Core
import DriverKit
import IO
import Recovery
import StateKit
import Vault

/// Dumps of single databases and tables: taken, listed, and brought back into a running server.
///
/// A dump is a snapshot of its own, with tags that no recovery point has: none of what brings stores back ever takes one up.
package struct Dumps: Sendable {
  /// Tag of the snapshots that are dumps.
  package static let tag = "salvor-dump"

  /// What lies beside a dump's files.
  private struct Kept: Codable {
    var dump: StoreDump
    var time: Timestamp
    var sizeBytes: Int64
  }

  /// A dump in a repository.
  package struct Listed: Sendable, Equatable, Codable {
    package var id: String
    package var time: Timestamp
    package var sizeBytes: Int64
    /// When it was taken; not known later.
    package var addedBytes: Int64?
    package var dump: StoreDump
  }

  package struct Listing: Sendable {
    /// Oldest first.
    package var dumps: [Listed] = []
    package var unreadable: [(snapshot: String, Report)] = []
  }

  /// Which dump, and what of it.
  package struct Wish: Sendable {
    package var store: StoreName
    package var database: String
    package var tables: [String] = []
    /// The beginning of an id; the newest that fits without one.
    package var from: String?
    /// The newest at or before this time.
    package var at: Timestamp?
    /// `nil` for the database itself.
    package var into: String?
    package var replaces = false
    package var dropsOwners = false
    package var jobs = 2

    package init(store: StoreName, database: String) { (self.store, self.database) = (store, database) }
  }

  /// What a restore would do, and with which dump.
  package struct Prepared: Sendable, Codable {
    package var id: String
    package var time: Timestamp
    package var store: StoreName
    package var plan: DumpPlan
  }

  private let system: ManagedSystem
  private let journal: any RunJournal
  /// Where files lie for a while.
  private let work: String

  package init(_ system: ManagedSystem, journal: any RunJournal, work: String) {
    (self.system, self.journal, self.work) = (system, journal, work)
  }

  private var host: Machine { system.host }

  private func store(_ name: StoreName) throws -> (declared: DataStore, dumper: any StoreDumper) {
    guard let declared = system.catalog.store(name) else { throw RecoveryError.noSuchStore(name) }
    guard let dumper = try system.driver(of: name).dumper() else {
      throw DumpError.unsupported(store: name, driver: declared.driver.text)
    }
    return (declared, dumper)
  }

  // MARK: Taking

  package func take(
    _ name: StoreName, _ request: DumpRequest,
    progress: @escaping @Sendable (_ phase: String, _ doneBytes: Int64) -> Void = { _, _ in }
  ) async throws(AnyFailure) -> Listed {
    do {
      let (declared, dumper) = try store(name)
      let vault = try await system.vault(of: declared.repository)
      return try await vault.withLock(exclusive: false, startsEarly: true) {
        try await RecordedAct.carryOut(
          .dump, "dump/\(name)",
          details: [
            "database": .string(request.database), "tables": .array(request.tables.map { .string($0) }),
            "repository": .string(declared.repository.text),
          ], host: host, journal: journal
        ) { _ in
          let taken = try await journal.whileReading([name], time: host.time) {
            try await take(name, dumper, request, into: vault, progress)
          }
          return (taken, ["snapshot": .string(taken.id), "position": .string(taken.dump.position.value)])
        }
      }
    } catch { throw AnyFailure(error) }
  }

  private func take(
    _ name: StoreName, _ dumper: any StoreDumper, _ request: DumpRequest, into vault: Vault.Repository,
    _ progress: @escaping @Sendable (String, Int64) -> Void
  ) async throws -> Listed {
    try await PrivateRestore.withWorkspace(beside: "\(work)/dump", host: host) { place in
      let directory = try await room(in: place) + "/dump"
      let time = host.time.now()
      let dump = try await dumper.dump(request, into: directory) { progress("dump", $0) }
      let builder = SnapshotBuilder(
        writer: vault, polynomial: vault.config.chunkerPolynomial, pool: host.pool, reader: vault)
      var size: Int64 = 0
      for file in try await host.pool.run({ () throws(SystemFailure) in try Files.names(in: directory) }) {
        let path = "\(directory)/\(file.lossyText)"
        guard let metadata = await host.pool.run({ readMetadata(path) }), metadata.kind == .regular else {
          throw DumpError.unreadable("\(path) is no file")
        }
        size += try await builder.add(TreePath("dump").appending(file), metadata, cutting: .content) {
          DumpFile(try File(path, O_RDONLY | O_NOFOLLOW))
        }.size
        progress("store", size)
      }
      let kept = Kept(dump: dump, time: time, sizeBytes: size)
      let facts = try CanonicalJSON.encode(kept, pretty: true)
      let metadata = FileMetadata(kind: .regular, permissions: 0o600, size: Int64(facts.count), modified: time)
      _ = try await builder.add("salvor/dump.json", metadata, cutting: .content) { MemorySource(facts) }
      let tree = try await builder.finish()
      try await vault.flush()
      let id = try await vault.save(
        Snapshot(
          time: time, tree: tree.root, paths: Self.paths(name, dump), hostname: host.name,
          tags: [Self.tag, "dump:\(name)"]))
      await vault.settleCopies(host.log)
      return Listed(
        id: id.hex, time: time, sizeBytes: size, addedBytes: tree.totals.addedBytes + tree.totals.addedTreeBytes,
        dump: dump)
    }
  }

  /// A directory that nobody else may enter.
  private func room(in place: String) async throws -> String {
    let path = place + "/room"
    try await host.pool.run { () throws(SystemFailure) in try makeOwnDirectory(path, nil) }
    return path
  }

  /// What a policy counts together: dumps of the same database, or of the same tables of it.
  static func paths(_ store: StoreName, _ dump: StoreDump) -> [String] {
    let base = "/salvor-dump/\(store)/\(encoded(dump.database))"
    return dump.isWhole ? [base] : dump.tables.map { "\(base)/\(encoded($0.schema)).\(encoded($0.name))" }.sorted()
  }

  /// As in an address: letters, digits and `_-` stay.
  private static func encoded(_ name: String) -> String {
    var text = ""
    for byte in name.utf8 {
      switch byte {
      case 48...57, 65...90, 97...122, 45, 95: text.unicodeScalars.append(Unicode.Scalar(byte))
      default: text += "%" + Hex.encode([byte])
      }
    }
    return text
  }

  // MARK: Listing

  /// - Parameter store: All stores' without one.
  package func list(_ store: StoreName? = nil) async throws(AnyFailure) -> Listing {
    do {
      if let store { _ = try self.store(store) }
      let repositories = Set(
        system.catalog.stores.filter { store == nil || $0.name == store }.map(\.repository)
      ).sorted()
      var listing = Listing()
      for repository in repositories {
        let vault = try await system.vault(of: repository)
        for stored in try await vault.snapshots() where stored.snapshot.tags.contains(Self.tag) {
          if let store, !stored.snapshot.tags.contains("dump:\(store)") { continue }
          do { listing.dumps.append(try await read(stored, vault)) } catch {
            let failure = AnyFailure(error)
            if failure.isCancellation || failure.report.retry == .afterBackoff { throw failure }
            listing.unreadable.append((stored.id.hex, failure.report))
          }
        }
      }
      listing.dumps.sort { ($0.time, $0.id) < ($1.time, $1.id) }
      return listing
    } catch { throw AnyFailure(error) }
  }

  private func read(_ stored: StoredSnapshot, _ vault: Vault.Repository) async throws -> Listed {
    let tree = SnapshotTree(reader: vault, root: stored.snapshot.tree, pool: host.pool)
    let bytes = try await tree.contents(of: "salvor/dump.json", limitBytes: 256 << 20)
    let kept: Kept
    do { kept = try CanonicalJSON.decode(Kept.self, from: bytes) } catch {
      throw DumpError.unreadable("what lies beside it is not understood")
    }
    guard kept.dump.format == StoreDump.format, stored.snapshot.tags.contains("dump:\(kept.dump.store)") else {
      throw DumpError.unreadable("its snapshot is tagged as another's, or it was written by a later version")
    }
    return Listed(id: stored.id.hex, time: kept.time, sizeBytes: kept.sizeBytes, addedBytes: nil, dump: kept.dump)
  }

  /// - Parameter text: The beginning of an id.
  package func find(_ text: String, of store: StoreName? = nil) async throws(AnyFailure) -> Listed {
    do {
      let fitting = try await list(store).dumps.filter { $0.id.hasPrefix(text.lowercased()) }
      guard let one = fitting.first, !text.isEmpty else { throw DumpError.noDump("'\(text)'") }
      guard fitting.count == 1 else { throw DumpError.ambiguous(text, fitting.map { String($0.id.prefix(8)) }) }
      return one
    } catch { throw AnyFailure(error) }
  }

  // MARK: Bringing back

  /// Those a wish may mean, newest first.
  private func candidates(_ wish: Wish) async throws -> [Listed] {
    if let from = wish.from, from != "latest" {
      let one = try await find(from, of: wish.store)
      guard one.dump.database == wish.database else {
        throw DumpError.noDump("\(from) of database '\(wish.database)'; that one is of '\(one.dump.database)'")
      }
      return [one]
    }
    let fitting = try await list(wish.store).dumps.filter { one in
      one.dump.database == wish.database && (!wish.tables.isEmpty || one.dump.isWhole)
        && wish.at.map { one.time <= $0 } ?? true
    }
    guard !fitting.isEmpty else {
      throw DumpError.noDump(
        "of \(wish.tables.isEmpty ? "the whole " : "")database '\(wish.database)' of \(wish.store)"
          + (wish.at.map { " at or before \($0)" } ?? ""))
    }
    return fitting.reversed()
  }

  /// Finds the dump, and says what would be done with it. Reads only.
  package func prepare(_ wish: Wish) async throws(AnyFailure) -> Prepared {
    do {
      let (declared, dumper) = try store(wish.store)
      let vault = try await system.vault(of: declared.repository)
      return try await system.holdingRepositories(of: [wish.store], until: ReadingEnd()) {
        let candidates = try await candidates(wish)
        var last: DumpError?
        for one in candidates {
          let plan: DumpPlan? = try await PrivateRestore.withWorkspace(beside: "\(work)/dump", host: host) { place in
            let directory = try await bring(one, [StoreDump.contents], vault, into: room(in: place))
            do throws(DumpError) { return try await dumper.plan(request(wish, one.dump), from: directory) } catch {
              // A table that was gone by then is in an older one.
              guard case .notInDump = error else { throw error }
              last = error
              return nil
            }
          }
          if let plan { return Prepared(id: one.id, time: one.time, store: wish.store, plan: plan) }
        }
        throw last ?? DumpError.noDump("of it")
      }
    } catch { throw AnyFailure(error) }
  }

  /// Carries out what was prepared, if it is still what would be done.
  package func restore(
    _ prepared: Prepared, _ wish: Wish, progress: @escaping @Sendable (_ phase: String, _ doneBytes: Int64) -> Void
  ) async throws(AnyFailure) -> DumpPlan {
    do {
      let (declared, dumper) = try store(wish.store)
      let vault = try await system.vault(of: declared.repository)
      return try await system.holdingRepositories(of: [wish.store], until: ReadingEnd()) {
        try await RecordedAct.carryOut(
          .dumpRestore, "dump/\(wish.store)",
          details: [
            "snapshot": .string(prepared.id), "database": .string(prepared.plan.database),
            "tables": .array(wish.tables.map { .string($0) }), "replaces": .bool(wish.replaces),
          ], host: host, journal: journal
        ) { _ in
          let plan = try await journal.whileReading([wish.store], time: host.time) {
            try await restore(prepared, wish, dumper, vault, progress)
          }
          return (plan, ["tables": .array(plan.tables.map { .string($0) })])
        }
      }
    } catch { throw AnyFailure(error) }
  }

  private func restore(
    _ prepared: Prepared, _ wish: Wish, _ dumper: any StoreDumper, _ vault: Vault.Repository,
    _ progress: @escaping @Sendable (String, Int64) -> Void
  ) async throws -> DumpPlan {
    let one = try await find(prepared.id, of: wish.store)
    let request = request(wish, one.dump)
    return try await PrivateRestore.withWorkspace(beside: "\(work)/dump", host: host) { place in
      let room = try await room(in: place)
      let files = prepared.plan.files.map { [StoreDump.contents] + $0 }
      let directory = try await bring(one, files, vault, into: room) { progress("read", $0) }
      // What was there when it was asked may be there no longer, or something else.
      let plan = try await dumper.plan(request, from: directory)
      guard plan == prepared.plan else {
        throw DumpError.driver(.unsupported("database '\(plan.database)' changed meanwhile; look at the plan again"))
      }
      progress("restore", one.sizeBytes)
      try await dumper.restore(request, plan, from: directory)
      return plan
    }
  }

  private func request(_ wish: Wish, _ dump: StoreDump) -> DumpRestoreRequest {
    DumpRestoreRequest(
      dump: dump, tables: wish.tables, into: wish.into ?? wish.database, replaces: wish.replaces,
      dropsOwners: wish.dropsOwners, jobs: wish.jobs)
  }

  /// Brings files of a dump into `room`.
  ///
  /// - Parameter files: All of them without one; names that the dump doesn't have are no matter.
  /// - Returns: The directory they are in.
  private func bring(
    _ one: Listed, _ files: [String]?, _ vault: Vault.Repository, into room: String,
    progress: @escaping @Sendable (Int64) -> Void = { _ in }
  ) async throws -> String {
    guard let id = Digest(hex: one.id) else { throw DumpError.noDump(one.id) }
    let tree = SnapshotTree(
      reader: vault, root: try await vault.loadSnapshot(id).tree, pool: host.pool)
    let wanted = files.map { Set($0.map { FileName($0) }) }
    let entries = try await tree.entries(below: "dump").filter { entry in
      entry.metadata.kind == .regular && entry.path.components.count == 1
        && (wanted.map { wanted in entry.path.last.map { wanted.contains($0) } ?? false } ?? true)
    }
    let needed = entries.reduce(Int64(0)) { $0 + $1.metadata.size }
    if let free = await host.pool.run({ try? Files.freeBytes(at: room) }), free < needed {
      throw DumpError.noRoom(neededBytes: needed, freeBytes: free, at: room)
    }
    let report = try await tree.restore(
      to: room + "/tree",
      RestoreOptions(include: entries.map { TreePath("dump").appending($0.path) }, progress: progress))
    if !report.failures.isEmpty { throw TreeError.partlyRestored(report.failures) }
    return room + "/tree/dump"
  }
}

extension RunKind {
  static let dump: RunKind = "dump"
  static let dumpRestore: RunKind = "dump-restore"
}

/// A file from its beginning to its end. Calls block.
private final class DumpFile: ByteSource {
  private let file: File
  init(_ file: File) { self.file = file }
  func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int { try file.read(into: buffer) }
}

#if canImport(Glibc)
  import Glibc
#endif
