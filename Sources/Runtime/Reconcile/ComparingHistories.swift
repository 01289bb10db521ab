import Catalog
import Core
import DriverKit
import IO
import Reconciliation
import Recovery

extension Reconcile {
  /// What two states of one store say differently, by key, in both directions.
  ///
  /// - Parameter limit: How many differences are listed.
  package func histories(
    of store: StoreName, _ left: StoreMoment, _ right: StoreMoment, limit: Int = 100_000,
    progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> HistoryReport {
    do {
      guard let declared = system.catalog.store(store) else { throw RecoveryError.noSuchStore(store) }
      return try await journal.whileReading([store], time: system.host.time) {
        try await system.holdingRepositories(of: [store], until: ReadingEnd()) {
          let name = "history-\(Hex.encode(system.host.randomness.bytes(6)))"
          return try await asking(store, left, name: name + "-a", progress) { source, askLeft in
            try await asking(store, right, name: name + "-b", progress) { other, askRight in
              try await compare(
                declared, (source, askLeft), (other, askRight), limit: limit, scratch: name, progress)
            }
          }
        }
      }
    } catch { throw AnyFailure(RunsError.of(error)) }
  }

  private typealias AskingAll = @Sendable ([String]) async throws -> [QueryResult]

  private func asking<T: Sendable>(
    _ store: StoreName, _ moment: StoreMoment, name: String, _ progress: @escaping @Sendable (String) -> Void,
    _ body: @escaping @Sendable (String, @escaping AskingAll) async throws -> T
  ) async throws -> T {
    let limit = QueryLimit(rows: Self.rowLimit, timeout: Self.timeout)
    let driver = try system.driver(of: store)
    let (source, copies) = try await system.copies(of: [store], at: moment)
    guard let (_, copy) = copies.first else {
      return try await body(source) { texts in
        var answers: [QueryResult] = []
        for text in texts { answers.append(try await driver.query(text, limit: limit)) }
        return answers
      }
    }
    progress("bringing back \(store) as of \(moment)")
    return try await system.withCopy(of: store, copy, name: name) { beside in
      try await body(source) { try await beside.driver.queryBeside(beside.request, $0, limit: limit) }
    }
  }

  private func compare(
    _ store: DataStore, _ left: (source: String, ask: AskingAll), _ right: (source: String, ask: AskingAll),
    limit: Int, scratch: String, _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> HistoryReport {
    var report = HistoryReport(store: store.name, left: left.source, right: right.source)
    let (mine, theirs) = (try await shapes(store, left.ask), try await shapes(store, right.ask))
    let both = mine.filter { theirs.contains($0) }
    for shape in mine where !both.contains(shape) { report.tables.append(Self.alone(shape, "only in \(left.source)")) }
    for shape in theirs where !both.contains(shape) {
      report.tables.append(Self.alone(shape, "only in \(right.source)"))
    }
    progress("reading \(both.count) tables")
    let texts = both.map(\.query)
    let (first, second) = (try await left.ask(texts), try await right.ask(texts))
    let place = system.host.path("reconcile/.scratch-\(scratch)")
    for (index, shape) in both.enumerated() {
      let room = limit - report.differences.count
      guard !first[index].isTruncated, !second[index].isTruncated else {
        throw ReconciliationError.truncated(store.name, rows: Self.rowLimit)
      }
      let (a, b) = (first[index].rows, second[index].rows)
      let result = await system.host.pool.run {
        () -> Result<(HistoryReport.Table, [HistoryReport.Difference]), any Error> in
        defer { try? Files.removeTree(place) }
        return Result { try HistoryComparison.compare(shape, left: a, right: b, scratch: place, limit: room) }
      }
      let (table, differences) = try result.get()
      report.tables.append(table)
      report.differences += differences
    }
    report.tables.sort { $0.name < $1.name }
    return report
  }

  private static func alone(_ shape: KeyedTable, _ note: String) -> HistoryReport.Table {
    var table = HistoryReport.Table(shape)
    table.note = "\(note), or with other columns there"
    return table
  }

  private func shapes(_ store: DataStore, _ ask: AskingAll) async throws -> [KeyedTable] {
    if let whole = KeyedTable.whole(store.driver) { return [whole] }
    guard let question = KeyedTable.question(store.driver), let answer = try await ask([question]).first else {
      throw ReconciliationError.noHistory(store.name, "nobody has taught us to list what a \(store.driver) store holds")
    }
    return KeyedTable.tables(answer.rows, store.driver)
  }
}
