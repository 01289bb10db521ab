import Catalog
import Core
import Runbooks

/// What the catalog says, as it is typed into a shell. Secrets are read where they are used, and never stand in a line.
enum ShellText {
  static func line(_ command: Command) -> String {
    var words = Shell.line(command.words)
    if let user = command.user { words = "runuser -u \(Shell.word(user)) -- \(words)" }
    let variables = command.environment.sorted { $0.key < $1.key }.map { name, value -> String in
      switch value {
      case .text(let text): "\(name)=\(Shell.word(text))"
      case .secret(let reference): "\(name)=\(secret(reference))"
      }
    }
    if !variables.isEmpty { words = variables.joined(separator: " ") + " " + words }
    if let directory = command.workingDirectory { words = "(cd \(Shell.word(directory)) && \(words))" }
    return words
  }

  private static func secret(_ reference: SecretReference) -> String {
    let text = "\(reference)"
    if text.hasPrefix("file:") { return "\"$(cat \(Shell.word(String(text.dropFirst(5)))))\"" }
    if text.hasPrefix("env:") { return "\"$\(text.dropFirst(4))\"" }
    return "\"$(\(text.dropFirst("command:".count)))\""
  }

  // MARK: Questions

  static func check(_ probe: DeclaredProbe, _ name: String) -> RunbookFacts.Check {
    let seconds = max(1, Int(probe.timeout.seconds.rounded(.up)))
    switch probe.question {
    case .exec(let command):
      return .init(name: name, words: Shell.line(command.words), command: "\(line(command)) >/dev/null 2>&1")
    case .http(let url, let status):
      return .init(name: name, words: "\(url) answers \(status)", command: asks(url, status, seconds))
    case .tcp(let host, let port):
      return .init(
        name: name, words: "\(host):\(port) is open",
        command:
          "curl --silent --max-time \(seconds) --output /dev/null \(Shell.word("telnet://\(host):\(port)")) </dev/null")
    case .sql(let store, let query): return .init(name: name, words: "'\(query)' runs in \(store)")
    }
  }

  static func check(_ validator: Validator, _ catalog: Catalog) -> RunbookFacts.Check {
    let name = validator.name.text
    let words = "\(asked(validator.question)) \(expected(validator.expectation))"
    let seconds = max(1, Int(validator.timeout.seconds.rounded(.up)))
    var command: String?
    switch validator.question {
    case .exec(let declared): command = compare(line(declared), validator.expectation)
    case .http(let url):
      if case .status(let status) = validator.expectation {
        command = asks(url, status, seconds)
      } else {
        command = compare(
          "curl --fail --silent --max-time \(seconds) \(Shell.word(url))", validator.expectation)
      }
    case .sql(let store, let query):
      if let store = catalog.store(store), store.driver == "sqlite", let path = store.options["path"]?.string {
        // Not made anew where there is none.
        let file =
          "file:\(path.replacing("%", with: "%25").replacing("?", with: "%3f").replacing("#", with: "%23"))?mode=rw"
        command = compare("sqlite3 \(Shell.word(file)) \(Shell.word(query))", validator.expectation)
      }
    case .workflow(let name):
      // One that writes is not gone through on the live system by the way.
      if catalog.workflow(name)?.effects == .reads { command = "salvor load run \(Shell.word(name.text)) >/dev/null" }
    }
    return .init(name: name, words: words, command: command)
  }

  private static func asks(_ url: String, _ status: Int, _ seconds: Int) -> String {
    "test \"$(curl --silent --max-time \(seconds) --output /dev/null --write-out '%{http_code}' \(Shell.word(url)))\" = \(status)"
  }

  private static func compare(_ command: String, _ expectation: Validator.Expectation) -> String {
    switch expectation {
    case .equals(let text): "test \"$(\(command))\" = \(Shell.word(text))"
    case .rows(let count): "test \"$(\(command) | wc -l)\" -eq \(count)"
    case .empty: "test -z \"$(\(command))\""
    case .status(0): "\(command) >/dev/null"
    case .status(let status): "{ \(command) >/dev/null; test $? = \(status); }"
    case .matches(let pattern): "\(command) | grep -Pq -e \(Shell.word(pattern))"
    }
  }

  private static func asked(_ question: Validator.Question) -> String {
    switch question {
    case .sql(let store, let query): "'\(query)' in \(store)"
    case .exec(let command): Shell.line(command.words)
    case .http(let url): url
    case .workflow(let name): "the workflow \(name)"
    }
  }

  private static func expected(_ expectation: Validator.Expectation) -> String {
    switch expectation {
    case .equals(let text): "gives \(text)"
    case .rows(let count): "gives \(count) rows"
    case .empty: "gives nothing"
    case .status(let status): "ends with \(status)"
    case .matches(let pattern): "gives something like \(pattern)"
    }
  }
}
