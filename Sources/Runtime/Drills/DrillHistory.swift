import Catalog
import Core
import Drills
import IO
import Planning
import Recovery
import StateKit
import Vault

/// What drills came to: in the journal, where their steps teach the planner, and in the repository, where they outlive this
/// machine.
package struct DrillHistory: Sendable {
  /// Tag of the snapshots that are records of drills.
  package static let tag = "salvor-drill"
  private static let step: StepID = "record"
  private static let kind: StepKind = "drill.record.v1"

  private let journal: any RunJournal
  private let system: ManagedSystem

  package init(_ journal: any RunJournal, _ system: ManagedSystem) { (self.journal, self.system) = (journal, system) }

  /// Oldest first.
  package func list(_ drill: DrillName? = nil, limit: Int = 1000) async throws(AnyFailure) -> [DrillRecord] {
    do {
      var records: [DrillRecord] = []
      for run in try await journal.list(RunFilter(kinds: [.drill], states: [.succeeded], limit: limit)) {
        guard let output = try await journal.load(run.id).output(of: Self.step) else { continue }
        let record = try output.decoded(as: DrillRecord.self)
        if drill == nil || record.drill == drill { records.append(record) }
      }
      return records.sorted { ($0.startedAt, $0.id) < ($1.startedAt, $1.id) }
    } catch {
      throw AnyFailure(error)
    }
  }

  // MARK: Keeping

  /// - Throws: ``DrillError/notRecorded(_:)``.
  func keep(_ record: DrillRecord, _ measurements: [String: StateKit.Measurement]) async throws(DrillError) {
    do {
      try await write(record, measurements)
      for repository in system.catalog.repositories { try await write(record, to: repository.name) }
    } catch { throw .notRecorded(AnyFailure(error).report) }
  }

  /// As a run of its own. The steps of an honest drill that passed are those of a restore, and are counted as such.
  private func write(_ record: DrillRecord, _ measurements: [String: StateKit.Measurement]) async throws {
    let counts = record.control == nil && record.verdict == .passed
    var steps: [StepSpec] = []
    for (name, _) in measurements.sorted(by: { $0.key < $1.key }) where counts {
      guard let id = StepID(name), let word = name.split(separator: "/").first,
        let action = RestoreAction(rawValue: String(word))
      else { continue }
      let known = record.steps.first { $0.step == name }
      steps.append(
        StepSpec(
          id: id, kind: action.stepKind, title: name, service: known?.store == nil ? known?.service : nil,
          store: known?.store))
    }
    steps.append(StepSpec(id: Self.step, kind: Self.kind, title: "record", dependsOn: Set(steps.map(\.id))))
    let spec = RunSpec(
      id: RunID(record.id) ?? "drill", kind: .drill,
      title:
        "drill \(record.drill)\(record.control.map { " with \($0.fault.rawValue)" } ?? ""): \(record.verdict.rawValue)",
      catalogDigest: record.catalogDigest, steps: steps, createdAt: record.startedAt)
    try await journal.create(spec)
    let lease = try await journal.claim(spec.id, as: Holder.thisProcess, for: .seconds(60))
    try await journal.write(.state(.running, because: nil), under: lease)
    for step in steps {
      try await journal.write(.intent(step.id, attempt: 1), under: lease)
      let now = system.host.time
      let measured =
        measurements[step.id.text]
        ?? StateKit.Measurement(
          startedAt: record.startedAt, finishedAt: record.finishedAt,
          startedMonotonicNanoseconds: now.monotonicNanoseconds(),
          finishedMonotonicNanoseconds: now.monotonicNanoseconds())
      let output: JSONValue = step.id == Self.step ? try JSONValue(encoding: record) : .null
      try await journal.write(.outcome(step.id, .succeeded(output, measured)), under: lease)
    }
    try await journal.write(.state(.succeeded, because: nil), under: lease)
    try await journal.write(.release, under: lease)
  }

  private func write(_ record: DrillRecord, to repository: RepositoryName) async throws {
    let vault = try await system.vault(of: repository)
    let (host, pool) = (system.host, system.host.pool)
    let bytes = try CanonicalJSON.encode(record, pretty: true)
    try await vault.withLock(exclusive: false) {
      let builder = SnapshotBuilder(writer: vault, polynomial: vault.config.chunkerPolynomial, pool: pool)
      let metadata = FileMetadata(
        kind: .regular, permissions: 0o600, size: Int64(bytes.count), modified: record.finishedAt)
      _ = try await builder.add("drill.json", metadata, cutting: .content) { MemorySource(bytes) }
      let tree = try await builder.finish()
      try await vault.flush()
      _ = try await vault.save(
        Snapshot(
          time: record.finishedAt, tree: tree.root, paths: ["/salvor-drill"], hostname: host.name,
          tags: [Self.tag, "drill:\(record.drill)", "verdict:\(record.verdict.rawValue)"]))
      await vault.settleCopies(host.log)
    }
  }

  /// Records that a repository keeps, oldest first: all there is on a machine whose journal is lost.
  package func kept(in repository: RepositoryName) async throws(AnyFailure) -> [DrillRecord] {
    do {
      let vault = try await system.vault(of: repository)
      var records: [DrillRecord] = []
      for stored in try await vault.snapshots() where stored.snapshot.tags.contains(Self.tag) {
        let tree = SnapshotTree(reader: vault, root: stored.snapshot.tree, pool: system.host.pool)
        let bytes = try await tree.contents(of: "drill.json", limitBytes: 16 << 20)
        records.append(try CanonicalJSON.decode(DrillRecord.self, from: bytes))
      }
      return records.sorted { ($0.startedAt, $0.id) < ($1.startedAt, $1.id) }
    } catch {
      throw AnyFailure(error)
    }
  }
}
