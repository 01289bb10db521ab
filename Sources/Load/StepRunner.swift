import Catalog
import Core

package struct LoadRequest: Sendable, Equatable {
  package var method: String
  package var url: String
  package var headers: [String: String]
  package var body: [UInt8]?
  package var timeout: Duration

  package init(method: String, url: String, headers: [String: String] = [:], body: [UInt8]? = nil, timeout: Duration) {
    (self.method, self.url, self.headers, self.body, self.timeout) = (method, url, headers, body, timeout)
  }
}

package struct LoadAnswer: Sendable, Equatable {
  /// The response's; a command's exit status.
  package var status: Int
  /// Names in lowercase.
  package var headers: [String: String]
  package var body: String

  package init(status: Int, headers: [String: String] = [:], body: String = "") {
    (self.status, self.headers, self.body) = (status, headers, body)
  }
}

/// What workflows act on, lent by the wiring.
package struct LoadPorts: Sendable {
  package var time: any Timekeeper
  package var send: @Sendable (LoadRequest) async throws -> LoadAnswer
  package var execute: @Sendable (Command) async throws -> LoadAnswer

  package init(
    time: any Timekeeper, send: @escaping @Sendable (LoadRequest) async throws -> LoadAnswer,
    execute: @escaping @Sendable (Command) async throws -> LoadAnswer
  ) {
    (self.time, self.send, self.execute) = (time, send, execute)
  }
}

/// One step, made ready to be taken again and again. One task's own: regular expressions don't cross tasks.
struct StepRunner {
  private enum Wanted {
    case equals(TemplateText)
    case matches(Regex<AnyRegexOutput>, String)
  }

  let step: LoadWorkflow.Step
  private let address: TemplateText
  private let headers: [(String, TemplateText)]
  private let body: TemplateText?
  private let words: [TemplateText]
  private var wanted: [Wanted?] = []
  private let needsJSON: Bool

  init(_ step: LoadWorkflow.Step) throws(LoadError) {
    self.step = step
    func template(_ text: String) throws(LoadError) -> TemplateText {
      do throws(TemplateText.Problem) { return try TemplateText(text) } catch { throw .missing(error.text) }
    }
    switch step.action {
    case .http(let request):
      address = try template(request.url)
      var headers: [(String, TemplateText)] = []
      for (name, value) in request.headers.sorted(by: { $0.key < $1.key }) {
        headers.append((name, try template(value)))
      }
      self.headers = headers
      body = if let text = request.body { try template(text) } else { nil }
      words = []
    case .exec(let command):
      address = try template("")
      (headers, body) = ([], nil)
      var words: [TemplateText] = []
      for word in command.words { words.append(try template(word)) }
      self.words = words
    }
    var needsJSON = step.captures.values.contains { !$0.isEmpty }
    for expectation in step.expectations {
      switch expectation {
      case .status: wanted.append(nil)
      case .value(_, let match):
        needsJSON = true
        wanted.append(try Self.wanted(match, template))
      case .header(_, let match), .text(let match): wanted.append(try Self.wanted(match, template))
      }
    }
    self.needsJSON = needsJSON
  }

  private static func wanted(
    _ match: LoadWorkflow.Match, _ template: (String) throws(LoadError) -> TemplateText
  ) throws(LoadError) -> Wanted {
    switch match {
    case .equals(let text): return .equals(try template(text))
    case .matches(let pattern):
      guard let expression = try? Regex(pattern) else { throw .missing("/\(pattern)/ is not a regular expression") }
      return .matches(expression, pattern)
    }
  }

  /// - Returns: Why the answer is not what it should be; `nil` if it is.
  /// - Throws: Only when cancelled.
  func take(_ values: inout TemplateValues, _ ports: LoadPorts) async throws -> String? {
    guard var complaint = try await complaint(&values, ports) else { return nil }
    // A server may repeat what it was sent.
    for secret in values.secrets.values where secret.count > 0 {
      complaint = complaint.replacing(secret.revealed(), with: "***")
    }
    return complaint
  }

  private func complaint(_ values: inout TemplateValues, _ ports: LoadPorts) async throws -> String? {
    let answer: LoadAnswer
    do {
      answer = try await ask(values, ports)
    } catch {
      if error is CancellationError || Task.isCancelled { throw CancellationError() }
      if error is TimeLimitExceeded { return "no answer within \(step.timeout.brief)" }
      return AnyFailure(error).report.summary
    }
    do { return try judge(answer, &values) } catch { return AnyFailure(error).report.summary }
  }

  private func ask(_ values: TemplateValues, _ ports: LoadPorts) async throws -> LoadAnswer {
    switch step.action {
    case .http(let request):
      var headers: [String: String] = [:]
      if request.isJSON { headers["content-type"] = "application/json" }
      for (name, value) in self.headers { headers[name.lowercased()] = try value.filled(values, in: .header) }
      let sent = LoadRequest(
        method: request.method.rawValue, url: try address.filled(values, in: .address), headers: headers,
        body: try body.map { Array(try $0.filled(values, in: request.isJSON ? .json : .plain).utf8) },
        timeout: step.timeout)
      return try await ports.time.withTimeLimit(step.timeout) { try await ports.send(sent) }
    case .exec(var command):
      command.words = try words.map { try $0.filled(values, in: .plain) }
      let execute = command
      return try await ports.time.withTimeLimit(step.timeout) { try await ports.execute(execute) }
    }
  }

  private func judge(_ answer: LoadAnswer, _ values: inout TemplateValues) throws(LoadError) -> String? {
    var document: JSONValue?
    if needsJSON {
      document = try? CanonicalJSON.decode(JSONValue.self, from: Array(answer.body.utf8))
    }
    var isStatusSaid = false
    for (index, expectation) in step.expectations.enumerated() {
      let complaint: String?
      switch expectation {
      case .status(let status):
        isStatusSaid = true
        complaint = answer.status == status ? nil : "status \(answer.status) instead of \(status)"
      case .header(let name, _):
        complaint = try compare(answer.headers[name], wanted[index], "header \(name)", values)
      case .value(let pointer, _):
        complaint = try compare(document?.value(at: pointer)?.plainText, wanted[index], "'\(pointer)'", values)
      case .text: complaint = try compare(trimmed(answer.body), wanted[index], "the answer", values)
      }
      if let complaint, isStatusSaid || usualStatus(answer) == nil { return complaint }
      if complaint != nil { break }
    }
    if !isStatusSaid, let complaint = usualStatus(answer) { return complaint }
    for (name, pointer) in step.captures.sorted(by: { $0.key < $1.key }) {
      if pointer.isEmpty {
        values.captures[name] = trimmed(answer.body)
      } else if let value = document?.value(at: pointer) {
        values.captures[name] = value.plainText
      } else {
        return "the answer has no '\(pointer)'"
      }
    }
    return nil
  }

  /// What is wrong with a status nothing was said about.
  private func usualStatus(_ answer: LoadAnswer) -> String? {
    switch step.action {
    case .http: (200..<300).contains(answer.status) ? nil : "status \(answer.status)"
    case .exec: answer.status == 0 ? nil : "it ended with status \(answer.status)"
    }
  }

  private func compare(
    _ found: String?, _ wanted: Wanted?, _ what: String, _ values: TemplateValues
  ) throws(LoadError) -> String? {
    guard let wanted else { return nil }
    guard let found else { return "\(what) is not there" }
    switch wanted {
    case .equals(let template):
      let text = try template.filled(values, in: .plain)
      return found == text ? nil : "\(what) is \(excerpt(found)) instead of \(excerpt(text))"
    case .matches(let expression, let pattern):
      // Matching can't be interrupted: more text than this is refused rather than waited for.
      guard found.utf8.count <= 1 << 20 else {
        return "\(what) has more than 1 MiB, too much to look for /\(pattern)/ in"
      }
      return found.contains(expression) ? nil : "\(what) has no /\(pattern)/"
    }
  }
}

/// Short and on one line.
private func excerpt(_ text: String) -> String {
  let line = text.unicodeScalars.prefix(80).map { $0.value < 32 || $0.value == 127 ? " " : Character($0) }
  return "'" + String(line) + (text.unicodeScalars.count > 80 ? "…'" : "'")
}

/// Without white space at either end.
private func trimmed(_ text: String) -> String {
  var rest = Substring(text)
  while rest.first?.isWhitespace == true { rest.removeFirst() }
  while rest.last?.isWhitespace == true { rest.removeLast() }
  return String(rest)
}
