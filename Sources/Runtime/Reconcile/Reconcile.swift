import Catalog
import Core
import DriverKit
import IO
import Reconciliation
import Recovery
import StateKit

/// Compares stores by key, proposes what would set them right, and carries out what was consented to.
package struct Reconcile: Sendable {
  package struct Request: Sendable {
    /// Names of rules and invariants; empty means all.
    package var rules: Set<String> = []
    package var moment = StoreMoment.live
    package var from: Timestamp?
    package var to: Timestamp?
    /// How many findings are listed; the count goes on.
    package var limit = 100_000

    package init() {}
  }

  let system: ManagedSystem
  let journal: any RunJournal

  package init(_ system: ManagedSystem, journal: any RunJournal) { (self.system, self.journal) = (system, journal) }

  static let rowLimit = 10_000_000
  static let timeout: Duration = .seconds(300)

  var shelf: ReportShelf { ReportShelf(host: system.host) }

  // MARK: Finding

  /// Compares, and keeps what was found; changes no store.
  package func find(
    _ request: Request, progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> ReconciliationReport {
    do {
      let subjects = try subjects(request.rules)
      let id = "reconcile-\(Hex.encode(system.host.randomness.bytes(6)))"
      let (report, _) = try await RecordedAct.carryOut(
        .reconcile, "reconcile/\(id)", details: ["catalogDigest": .string(system.catalog.digest.hex)],
        host: system.host, journal: journal
      ) { _ in
        let report = try await compare(subjects, request, id: id, progress)
        try await shelf.save(report)
        let details: JSONValue = [
          "report": .string(try report.digest().hex), "found": .integer(report.found), "source": .string(report.source),
        ]
        return ((report, 0), details)
      }
      return report
    } catch { throw AnyFailure(RunsError.of(error)) }
  }

  package func reports() async throws(AnyFailure) -> [ReconciliationReport] {
    do {
      var result: [ReconciliationReport] = []
      for id in try await shelf.ids() { result.append(try await shelf.report(id)) }
      return result.sorted { $0.at < $1.at }
    } catch { throw AnyFailure(error) }
  }

  package func report(_ id: String) async throws(AnyFailure) -> ReconciliationReport {
    do { return try await shelf.report(id) } catch { throw AnyFailure(error) }
  }

  /// What is compared: a rule, or an invariant that compares.
  enum Subject: Sendable {
    case rule(ReconciliationRule)
    case invariant(Invariant, StoreQuery, StoreQuery)

    var name: CheckName {
      switch self {
      case .rule(let rule): rule.name
      case .invariant(let invariant, _, _): invariant.name
      }
    }

    var left: StoreQuery {
      switch self {
      case .rule(let rule): StoreQuery(store: rule.left.store, query: rule.left.query)
      case .invariant(_, let left, _): left
      }
    }

    var right: StoreQuery {
      switch self {
      case .rule(let rule): StoreQuery(store: rule.right.store, query: rule.right.query)
      case .invariant(_, _, let right): right
      }
    }
  }

  func subjects(_ names: Set<String>) throws(ReconciliationError) -> [Subject] {
    var all: [Subject] = system.catalog.reconciliations.map { .rule($0) }
    for invariant in system.catalog.invariants {
      switch invariant.rule {
      case .references(let from, let to, _): all.append(.invariant(invariant, from, to))
      case .equal(let left, let right): all.append(.invariant(invariant, left, right))
      case .constant: continue
      }
    }
    let known = Set(all.map(\.name.text))
    if let unknown = names.subtracting(known).min() { throw .noSuchRule(unknown) }
    let chosen = names.isEmpty ? all : all.filter { names.contains($0.name.text) }
    guard !chosen.isEmpty else { throw .nothingToCompare }
    return chosen
  }

  typealias Asking = @Sendable (StoreQuery) async throws -> QueryResult

  /// - Parameter id: Names the report, and the workspaces of copies.
  func compare(
    _ subjects: [Subject], _ request: Request, id: String, _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> ReconciliationReport {
    let stores = Set(subjects.flatMap { [$0.left.store, $0.right.store] })
    var request = request
    // What is newer than the question is on its way, whatever it is.
    if request.moment == .live, request.to == nil { request.to = system.host.time.now() }
    let asked = request
    guard asked.moment != .live else {
      return try await journal.whileReading(stores, time: system.host.time) {
        try await compare(subjects, asked, id: id, source: ReconciliationReport.live, progress) { try await live($0) }
      }
    }
    let (source, copies) = try await system.copies(of: stores.sorted(), at: asked.moment)
    return try await system.holdingRepositories(of: stores.sorted(), until: ReadingEnd()) {
      progress("bringing copies back beside")
      return try await system.withCopies(copies[...], name: id) { beside in
        try await compare(subjects, asked, id: id, source: source, progress) { query in
          guard let copy = beside[query.store] else { throw RecoveryError.noSuchStore(query.store) }
          let limit = QueryLimit(rows: Self.rowLimit, timeout: Self.timeout)
          guard let answer = try await copy.driver.queryBeside(copy.request, [query.query], limit: limit).first else {
            throw RecoveryError.noSuchStore(query.store)
          }
          return answer
        }
      }
    }
  }

  /// As ``compare(_:_:id:_:)``, of what is live, for a caller that keeps restores out already.
  func compareNow(
    _ subjects: [Subject], _ request: Request, id: String, _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> ReconciliationReport {
    try await compare(subjects, request, id: id, source: ReconciliationReport.live, progress) { try await live($0) }
  }

  private func live(_ query: StoreQuery) async throws -> QueryResult {
    let driver = try system.driver(of: query.store)
    return try await system.host.time.withTimeLimit(Self.timeout) {
      try await driver.query(query.query, limit: QueryLimit(rows: Self.rowLimit, timeout: Self.timeout))
    }
  }

  private func compare(
    _ subjects: [Subject], _ request: Request, id: String, source: String,
    _ progress: @escaping @Sendable (String) -> Void, _ ask: @escaping Asking
  ) async throws -> ReconciliationReport {
    let host = system.host
    let window = request.from == nil && request.to == nil ? nil : Window(from: request.from, to: request.to)
    var report = ReconciliationReport(
      id: id, at: host.time.now(), source: source, catalogDigest: system.catalog.digest.hex, window: window, rules: [],
      findings: [])
    let scratch = host.path("reconcile/.scratch-\(id)")
    for subject in subjects {
      progress("comparing \(subject.name)")
      let room = request.limit - report.findings.count
      let result: Result<(RuleReport, [Discrepancy]), any Error>
      do {
        result = .success(try await compare(subject, request, window, scratch: scratch, room: room, ask))
      } catch { result = .failure(error) }
      await host.pool.run { try? Files.removeTree(scratch) }
      let (rule, found) = try result.get()
      report.rules.append(rule)
      report.findings += found
    }
    return report
  }

  private func compare(
    _ subject: Subject, _ request: Request, _ window: Window?, scratch: String, room: Int, _ ask: @escaping Asking
  ) async throws -> (RuleReport, [Discrepancy]) {
    async let one = ask(subject.left)
    async let other = ask(subject.right)
    let (left, right) = try await (one, other)
    for (answer, query) in [(left, subject.left), (right, subject.right)] where answer.isTruncated {
      throw ReconciliationError.truncated(query.store, rows: Self.rowLimit)
    }
    var report = RuleReport(subject.name, left: subject.left.store, right: subject.right.store)
    (report.leftColumns, report.rightColumns) = (left.columns, right.columns)
    let plan: ComparisonPlan
    // Only where rows say when they came about does a window mean anything, unless one was asked for.
    var window = window
    switch subject {
    case .rule(let rule):
      report.leftColumns = rule.left.columns ?? left.columns
      report.rightColumns = rule.right.columns ?? right.columns
      plan = try ComparisonPlan(rule, left: report.leftColumns, right: report.rightColumns)
      if rule.time == nil, request.from == nil, request.moment == .live { window = nil }
    case .invariant(let invariant, _, _):
      let widths = [left.rows.first?.count, right.rows.first?.count].compactMap { $0 }
      if widths.count == 2, widths[0] != widths[1] {
        throw ReconciliationError.columns(invariant.name, left: widths[0], right: widths[1])
      }
      guard let made = ComparisonPlan(invariant, width: widths.first ?? 0) else {
        throw ReconciliationError.nothingToCompare
      }
      (plan, window) = (made, nil)
    }
    let (begun, within) = (report, window)
    return try await system.host.pool.run {
      var report = begun
      var comparison = Comparison(plan, window: within, scratch: scratch)
      for row in left.rows { try comparison.add(row, to: .left) }
      for row in right.rows { try comparison.add(row, to: .right) }
      var found: [Discrepancy] = []
      var isCut = false
      try comparison.finish(into: &report) { discrepancy in
        if found.count < room { found.append(discrepancy) } else { isCut = true }
      }
      report.isCut = isCut
      return (report, found)
    }
  }

  // MARK: Proposing

  /// What would set a report's findings right; kept, so that what is applied is what was reviewed.
  package func propose(_ id: String) async throws(AnyFailure) -> Proposal {
    do {
      let report = try await shelf.report(id)
      let rules = Dictionary(system.catalog.reconciliations.map { ($0.name, $0) }, uniquingKeysWith: { a, _ in a })
      let drivers = Dictionary(system.catalog.stores.map { ($0.name, $0.driver) }, uniquingKeysWith: { a, _ in a })
      let proposal = try await system.host.pool.run { try Proposal(report, rules: rules, drivers: drivers) }
      try await shelf.save(proposal)
      return proposal
    } catch { throw AnyFailure(error) }
  }

  /// Writes a proposal's scripts and its manifest into a new directory.
  package func write(_ proposal: Proposal, to directory: String) async throws(AnyFailure) {
    do {
      let manifest: JSONValue = [
        "report": .string(proposal.report), "reportDigest": .string(proposal.reportDigest),
        "digest": .string(try proposal.digest().hex), "corrections": .integer(Int64(proposal.corrections.count)),
        "unproposed": .integer(Int64(proposal.unproposed.count)),
      ]
      var files = try Scripts.files(of: proposal)
      files.append(("manifest.json", try CanonicalJSON.text(manifest, pretty: true) + "\n"))
      files.append(("proposal.json", try CanonicalJSON.text(proposal)))
      let written = files
      try await system.host.pool.run {
        guard try !Files.isThere(directory) else { throw ReconciliationError.targetHolds(directory) }
        try Files.createDirectory(directory, mode: 0o700)
        for (name, text) in written { try Files.replace("\(directory)/\(name)", with: Array(text.utf8)) }
      }
    } catch { throw AnyFailure(error) }
  }
}

extension RunKind {
  static let reconcile: RunKind = "reconcile"
}
