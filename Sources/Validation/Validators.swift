import Catalog
import Core
import DriverKit

extension CheckRunner {
  /// Runs every validator of a service.
  package func validate(_ service: Service) async -> [CheckReport] {
    var reports: [CheckReport] = []
    for validator in service.validators { reports.append(await validate(validator, of: service.name)) }
    return reports
  }

  package func validate(_ validator: Validator, of service: ServiceName) async -> CheckReport {
    var isRefused = false
    var report = await report(.validator, validator.name, of: service.text) {
      switch validator.question {
      case .sql(let store, let query):
        let result = try await rows(StoreQuery(store: store, query: query), timeout: validator.timeout)
        return try judge(result, validator.expectation)
      case .exec(let command):
        let execute = ports.execute
        let answer = try await ports.time.withTimeLimit(validator.timeout) { try await execute(command) }
        return try judge(
          status: answer.status, wellIf: answer.status == 0, "the command ended with status \(answer.status)",
          output: answer.output, validator.expectation)
      case .http(let url):
        let (get, timeout) = (ports.get, validator.timeout)
        let answer = try await ports.time.withTimeLimit(timeout) { try await get(url, timeout) }
        return try judge(
          status: answer.status, wellIf: (200..<300).contains(answer.status), "the answer has status \(answer.status)",
          output: answer.body, validator.expectation)
      case .workflow(let name):
        let workflow = ports.workflow
        let answer = try await ports.time.withTimeLimit(validator.timeout) { try await workflow(name) }
        if answer.isRefused {
          isRefused = true
          return Finished(outcome: .failed([Violation(.unexpected, count: 1, answer.summary)]))
        }
        guard answer.examined > 0 else { throw CheckError.notAnswerable("\(name): nothing was measured") }
        let violations = answer.broken.map { Violation(.unexpected, count: 1, $0) }
        return Finished(
          outcome: violations.isEmpty ? .passed(answer.summary) : .failed(violations), examined: answer.examined)
      }
    }
    // Told, and in nobody's way: a restore in earnest isn't rolled back for what only a drill may try.
    if isRefused { report.severity = .warning }
    return report
  }

  // MARK: Answers of stores

  private func judge(_ result: QueryResult, _ expectation: Validator.Expectation) throws -> Finished {
    let count = Int64(result.rows.count)
    func finished(_ outcome: CheckResult) -> Finished { Finished(outcome: outcome, examined: count) }
    switch expectation {
    case .equals(let expected): return finished(judge(single: result, equals: expected))
    case .rows(let expected):
      if count == expected { return finished(.passed("\(count) rows, as expected")) }
      return finished(.failed([unexpected("\(count) rows instead of \(expected)", result.rows)]))
    case .empty:
      if count == 0 { return finished(.passed("no rows, as expected")) }
      return finished(.failed([unexpected("\(count) rows where none should be", result.rows)]))
    case .matches(let pattern):
      let text = result.rows.map { $0.map { $0 ?? "" }.joined(separator: "\t") }.joined(separator: "\n")
      return finished(try judge(text, matches: pattern))
    case .status: throw CheckError.notAnswerable("a query has no status to expect")
    }
  }

  /// One row with one value, and that is known.
  func judge(single result: QueryResult, equals expected: String) -> CheckResult {
    guard result.rows.count == 1, let row = result.rows.first, row.count == 1, let value = row.first else {
      let columns = result.rows.first?.count ?? result.columns.count
      return .failed([
        unexpected("\(result.rows.count) rows of \(columns) columns where one value should be", result.rows)
      ])
    }
    if value == expected { return .passed("it is \(expected)") }
    return .failed([Violation(.unexpected, count: 1, "it is \(value ?? "NULL") instead of \(expected)")])
  }

  private func unexpected(_ explanation: String, _ rows: [Row]) -> Violation {
    var sample = Sample(limit: exampleLimit)
    for row in rows { sample.add(row) }
    return Violation(.unexpected, count: max(1, sample.count), explanation, examples: sample.examples)
  }

  // MARK: Answers of commands and pages

  /// - Parameter isWell: Whether the status is one of success; what is printed beside a failure is not looked at.
  private func judge(
    status: Int, wellIf isWell: Bool, _ complaint: String, output: String, _ expectation: Validator.Expectation
  ) throws -> Finished {
    func failed(_ explanation: String, _ text: String = "") -> Finished {
      Finished(
        outcome: .failed([Violation(.unexpected, count: 1, explanation, examples: text.isEmpty ? [] : [text])]),
        examined: 1)
    }
    let text = trimmed(output)
    if case .status(let expected) = expectation {
      if status == expected { return Finished(outcome: .passed("status \(status), as expected"), examined: 1) }
      return failed("status \(status) instead of \(expected)", text)
    }
    guard isWell else { return failed(complaint, text) }
    switch expectation {
    case .equals(let expected):
      if text == expected { return Finished(outcome: .passed("it is \(expected)"), examined: 1) }
      return failed("another answer than \(expected)", text)
    case .empty:
      return text.isEmpty
        ? Finished(outcome: .passed("no output, as expected"), examined: 1)
        : failed("output where none should be", text)
    case .matches(let pattern): return Finished(outcome: try judge(text, matches: pattern), examined: 1)
    case .rows, .status: throw CheckError.notAnswerable("only a query has rows to expect")
    }
  }

  private func judge(_ text: String, matches pattern: String) throws -> CheckResult {
    // Matching can't be interrupted: more text than this is refused rather than waited for.
    guard text.utf8.count <= 1 << 20 else {
      throw CheckError.notAnswerable("the output has more than 1 MiB, too much to look for /\(pattern)/ in")
    }
    let expression: Regex<AnyRegexOutput>
    do { expression = try Regex(pattern) } catch {
      throw CheckError.notAnswerable("/\(pattern)/ is not a regular expression")
    }
    if text.contains(expression) { return .passed("/\(pattern)/ is there") }
    return .failed([
      Violation(.unexpected, count: 1, "/\(pattern)/ is not in the output", examples: text.isEmpty ? [] : [text])
    ])
  }
}

/// Without white space at either end.
private func trimmed(_ text: String) -> String {
  var rest = Substring(text)
  while rest.first?.isWhitespace == true { rest.removeFirst() }
  while rest.last?.isWhitespace == true { rest.removeLast() }
  return String(rest)
}
