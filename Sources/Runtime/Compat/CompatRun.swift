import Catalog
import Core
import DriverKit
import IO
import Recovery
import StateKit
import Validation

/// Tries a release on what a point holds: brings it back beside, migrates, checks, and throws it away.
package struct CompatRun: Sendable {
  private let system: ManagedSystem
  private var time: any Timekeeper { system.host.time }

  package init(_ system: ManagedSystem) { self.system = system }

  /// - Parameter stores: Of the release's; empty is all.
  package func run(
    release directory: String, point: String?, stores: Set<StoreName> = [],
    progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> CompatReport {
    do {
      let catalog = system.catalog
      let files = try await system.host.pool.run { try ReleaseFiles(directory, for: catalog) }
      let parts = files.release.stores.filter { stores.isEmpty || stores.contains($0.store) }
      if let unknown = stores.first(where: { files.release.part(of: $0) == nil }) {
        throw RecoveryError.noSuchStore(unknown)
      }
      let invariants = asked(files.release, parts)
      let needed = Set(parts.map(\.store) + invariants.flatMap(\.stores)).sorted()
      let started = (at: time.now(), time.monotonicNanoseconds())
      return try await OpenedPoint.with(needed, at: point, in: system, progress: progress) { place in
        var report = CompatReport(
          release: files.release.name, point: place.point.id.text, pointTime: place.time, startedAt: started.at)
        var schemas: [StoreName: StoreSchema] = [:]
        for part in parts {
          if part.down != nil { schemas[part.store] = try await place.copies[part.store]?.schema() }
          report.stores.append(try await tryOut(part, files, place, progress))
        }
        // What a migration broke would be told again by every invariant.
        if report.stores.allSatisfy({ !$0.cases.contains { $0.kind == "migration" && $0.outcome == .failed } }) {
          for one in await place.checks(time).check(invariants) {
            report.invariants.append(CompatReport.Case("invariant", one))
          }
        }
        for index in parts.indices {
          report.stores[index].cases += try await undo(parts[index], files, place, schemas, report.stores[index])
        }
        report.nanoseconds = time.monotonicNanoseconds() - started.1
        return report
      }
    } catch { throw AnyFailure(error) }
  }

  /// Those that are about what the release changes, and about nothing that can't be opened beside it.
  private func asked(_ release: Release, _ parts: [Release.Part]) -> [Invariant] {
    let changed = Set(parts.map(\.store))
    return system.catalog.invariants.filter { invariant in
      if let named = release.invariants { return named.contains(invariant.name) }
      return !changed.isDisjoint(with: invariant.stores)
        && invariant.stores.allSatisfy { store in
          system.catalog.store(store).map { Registry.openable.contains($0.driver) } ?? false
        }
    }
  }

  // MARK: One store

  private func tryOut(
    _ part: Release.Part, _ files: ReleaseFiles, _ place: OpenedPoint, _ progress: @Sendable (String) -> Void
  ) async throws -> CompatReport.Store {
    guard let copy = place.copies[part.store] else { throw CompatError.notOpenable(part.store) }
    var result = CompatReport.Store(part.store)
    if let query = part.version {
      let (version, problem) = try await version(query, of: copy)
      result.versionBefore = version
      if let problem {
        result.cases.append(CompatReport.Case("schema", "version before", .failed, message: problem))
      } else if !part.accepts.isEmpty {
        let isAccepted = version.map { part.accepts.contains($0) } ?? false
        result.cases.append(
          CompatReport.Case(
            "schema", "version before", isAccepted ? .passed : .failed,
            message: "it is \(version ?? "NULL"); the release starts from \(part.accepts.joined(separator: ", "))"))
      }
    }
    result.cases += try await change(part, files, copy, progress)
    guard !result.cases.contains(where: { $0.kind == "migration" && $0.outcome == .failed }) else { return result }
    if let query = part.version {
      let (version, problem) = try await version(query, of: copy)
      result.versionAfter = version
      if let leadsTo = part.leadsTo {
        result.cases.append(
          CompatReport.Case(
            "schema", "version after", version == leadsTo ? .passed : .failed,
            message: problem ?? "it is \(version ?? "NULL"); the release leads to \(leadsTo)"))
      }
    }
    for check in part.checks { result.cases.append(try await ask(check, of: part.store, copy, place)) }
    return result
  }

  private func version(_ query: String, of copy: any DisposableCopy) async throws -> (String?, problem: String?) {
    do throws(DriverError) {
      let rows = try await copy.query(query, limit: QueryLimit(rows: 2, timeout: .seconds(60))).rows
      guard rows.count == 1, rows[0].count == 1 else { return (nil, "the version's query gives \(rows.count) rows") }
      return (rows[0][0], nil)
    } catch {
      if case .cancelled = error { throw CancellationError() }
      return (nil, error.report.summary)
    }
  }

  private func change(
    _ part: Release.Part, _ files: ReleaseFiles, _ copy: any DisposableCopy, _ progress: @Sendable (String) -> Void
  ) async throws -> [CompatReport.Case] {
    switch part.change {
    case nil: return []
    case .command(let command): return [try await run(command, files, copy)]
    case .scripts(let directory, let applied, let record):
      let scripts = try await system.host.pool.run { try files.scripts(in: directory) }
      var known: Set<String> = []
      if let applied {
        do throws(DriverError) {
          known = Set(
            try await copy.query(applied, limit: QueryLimit(rows: 100_000)).rows.compactMap { $0.first ?? nil })
        } catch {
          if case .cancelled = error { throw CancellationError() }
          let why = "what is applied can't be asked: \(error.report.summary)"
          return [CompatReport.Case("migration", "applied", .failed, message: why)]
        }
      }
      var cases: [CompatReport.Case] = []
      for script in scripts {
        if ReleaseFiles.isApplied(script.name, known) {
          cases.append(
            CompatReport.Case("migration", script.name, .skipped, message: "applied already", file: script.path))
          continue
        }
        progress("\(part.store): \(script.path)")
        let literal = "'" + script.name.replacing("'", with: "''") + "'"
        let statement = StoreScript(script.text, last: record?.replacing("{{migration}}", with: literal))
        let one = try await apply(statement, "migration", script, to: copy)
        cases.append(one)
        // Those after it build on it.
        if one.outcome == .failed { break }
      }
      return cases
    }
  }

  private func apply(
    _ statement: StoreScript, _ kind: String, _ script: ReleaseFiles.Script, to copy: any DisposableCopy
  ) async throws -> CompatReport.Case {
    let start = time.monotonicNanoseconds()
    let failure = try await copy.apply(statement)
    return CompatReport.Case(
      kind, script.name, failure == nil ? .passed : .failed, nanoseconds: time.monotonicNanoseconds() - start,
      message: failure?.message, file: script.path, line: failure?.line)
  }

  private func run(
    _ command: Command, _ files: ReleaseFiles, _ copy: any DisposableCopy
  ) async throws -> CompatReport.Case {
    var command = command
    for (name, value) in copy.environment { command.environment[name] = .text(value) }
    if command.workingDirectory == nil { command.workingDirectory = files.directory }
    let name = Files.last(of: command.words.first ?? "")
    // What it complains about goes where its output goes.
    command.words = ["sh", "-c", "exec \"$@\" 2>&1", "sh"] + command.words
    let start = time.monotonicNanoseconds()
    func finished(_ outcome: CompatReport.Case.Outcome, _ message: String?) -> CompatReport.Case {
      CompatReport.Case(
        "migration", name, outcome, nanoseconds: time.monotonicNanoseconds() - start, message: message)
    }
    do {
      let answer = try await execute(command, system.host.secrets)
      if answer.status == 0 { return finished(.passed, nil) }
      return finished(.failed, "it ended with status \(answer.status): \(String(answer.output.suffix(2000)))")
    } catch {
      if error is CancellationError || Task.isCancelled { throw CancellationError() }
      return finished(.failed, AnyFailure(error).report.summary)
    }
  }

  private func ask(
    _ check: Release.Check, of store: StoreName, _ copy: any DisposableCopy, _ place: OpenedPoint
  ) async throws -> CompatReport.Case {
    let name = check.name
    if let expectation = check.expectation, let service = system.catalog.store(store)?.service {
      let validator = Validator(name: name, question: .sql(store: store, query: check.query), expectation: expectation)
      return CompatReport.Case("check", await place.checks(time).validate(validator, of: service))
    }
    let start = time.monotonicNanoseconds()
    do throws(DriverError) {
      let rows = try await copy.query(check.query, limit: QueryLimit(rows: 1_000_000)).rows.count
      return CompatReport.Case(
        "check", name.text, .passed, nanoseconds: time.monotonicNanoseconds() - start, message: "\(rows) rows")
    } catch {
      if case .cancelled = error { throw CancellationError() }
      return CompatReport.Case(
        "check", name.text, .failed, nanoseconds: time.monotonicNanoseconds() - start, message: error.report.summary)
    }
  }

  // MARK: And back

  /// Undoes what was applied, the last first: afterwards the schema is what it was.
  private func undo(
    _ part: Release.Part, _ files: ReleaseFiles, _ place: OpenedPoint, _ schemas: [StoreName: StoreSchema],
    _ done: CompatReport.Store
  ) async throws -> [CompatReport.Case] {
    guard let down = part.down, let copy = place.copies[part.store], let before = schemas[part.store],
      !done.cases.contains(where: { $0.kind == "migration" && $0.outcome == .failed })
    else { return [] }
    let scripts = try await system.host.pool.run { try files.scripts(in: down) }
    let applied = done.cases.filter { $0.kind == "migration" && $0.outcome == .passed }.map(\.name)
    var cases: [CompatReport.Case] = []
    for name in applied.reversed() {
      guard let script = scripts.first(where: { $0.name == name }) else {
        cases.append(CompatReport.Case("down", name, .failed, message: "there is no \(down)/\(name).sql"))
        return cases
      }
      let one = try await apply(StoreScript(script.text), "down", script, to: copy)
      cases.append(one)
      if one.outcome == .failed { return cases }
    }
    let differences = try await copy.schema().differences(from: before)
    cases.append(
      CompatReport.Case(
        "down", "schema", differences.isEmpty ? .passed : .failed,
        message: differences.isEmpty
          ? "up and down again leads to the same schema"
          : "up and down again leads to another schema: \(differences.prefix(10).joined(separator: ", "))"))
    return cases
  }
}

extension CompatReport.Case {
  init(_ kind: String, _ report: CheckReport) {
    let outcome: Outcome =
      switch report.verdict {
      case .passed, .warned: .passed
      case .failed, .couldNotCheck: .failed
      }
    self.init(kind, report.name, outcome, nanoseconds: report.durationNanoseconds, message: report.summary)
  }
}
