import Catalog
import Core
import DriverKit
import Testing
import Validation

/// A store that answers the queries it knows, and nothing else.
struct ListedAnswers: DataStoreDriver {
  var answers: [String: QueryResult] = [:]
  /// How long each answer takes.
  var delay: Duration = .zero

  init(_ answers: [String: [[String?]]], delay: Duration = .zero) {
    self.answers = answers.mapValues { rows in
      QueryResult(columns: (0..<(rows.first?.count ?? 0)).map { "c\($0)" }, rows: rows)
    }
    self.delay = delay
  }

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    if delay > .zero { do { try await Task.sleep(for: delay) } catch { throw DriverError(error) } }
    guard var result = answers[text] else { throw .queryFailed("no such query: \(text)") }
    if result.rows.count > limit.rows {
      result.rows = Array(result.rows.prefix(limit.rows))
      result.isTruncated = true
    }
    return result
  }

  private var no: DriverError { .unsupported("this store only answers") }
  func traits() async throws(DriverError) -> DriverTraits { throw no }
  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession { throw no }
  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] { throw no }
  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState { throw no }
  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? { throw no }
  func swapIn(_ request: RestoreRequest) async throws(DriverError) { throw no }
  func swapOut(_ request: RestoreRequest) async throws(DriverError) { throw no }
  func discardKept(_ request: RestoreRequest) async throws(DriverError) { throw no }
  func start() async throws(DriverError) { throw no }
  func stop() async throws(DriverError) { throw no }
}

/// Checks over stores `a` and `b`.
func runner(
  a: ListedAnswers = ListedAnswers([:]), b: ListedAnswers = ListedAnswers([:]), examples: Int = 10,
  rowLimit: Int = 1_000_000,
  timeout: Duration = .seconds(30), command: CommandAnswer? = nil, page: PageAnswer? = nil
) -> CheckRunner {
  let stores: [StoreName: ListedAnswers] = ["a": a, "b": b]
  let ports = CheckPorts(
    time: SystemTime(),
    driver: { name in
      guard let driver = stores[name] else { throw DriverError.unreachable("store \(name)") }
      return driver
    },
    execute: { _ in
      guard let command else { throw DriverError.unreachable("the program") }
      return command
    },
    get: { _, _ in
      guard let page else { throw DriverError.unreachable("the page") }
      return page
    })
  return CheckRunner(ports, exampleLimit: examples, rowLimit: rowLimit, invariantTimeout: timeout)
}

/// An invariant as a catalog declares it.
func invariant(_ rule: String, severity: String = "error") throws -> Invariant {
  let text = """
    apiVersion: salvor.dev/v1
    kind: Repository
    metadata: {name: vault}
    spec: {location: /srv/vault, password: "file:/srv/password"}
    ---
    apiVersion: salvor.dev/v1
    kind: Service
    metadata: {name: one}
    spec:
      stores:
        - {name: a, driver: listed}
        - {name: b, driver: listed}
        - {name: gone, driver: listed}
    ---
    apiVersion: salvor.dev/v1
    kind: Invariant
    metadata: {name: rule}
    spec:
      severity: \(severity)
      \(rule)
    """
  let catalog = try Catalog.resolve([SourceFile(path: "test.yaml", text: text)], drivers: ["listed": []]).get()
  return try #require(catalog.invariant("rule"))
}

func references(_ from: String = "a", _ to: String = "b", exact: Bool = false) throws -> Invariant {
  try invariant("references: {from: {store: \(from), query: from}, to: {store: \(to), query: to}, exact: \(exact)}")
}
