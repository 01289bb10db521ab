import ArgumentParser
import Console
import Core
import Foundation
import IO
import Redaction
import Runtime

struct RedactCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "redact", abstract: "Make copies for others to work with, in which nobody is recognised.",
    subcommands: [RedactCopyCommand.self, RedactSuggestCommand.self, RedactCheckCommand.self, RedactScanCommand.self])
}

/// Which stores of which point.
struct RedactTarget: ParsableArguments {
  @Option(help: "A recovery point's id, its beginning, or its name (default: the newest that verifies).") var point:
    String?
  @Option(name: .customLong("store"), help: "A store; may be given again.") var stores: [String] = []
  @Flag(help: "Trust the point's copies without reading them first.") var noVerify = false

  func request(policy: String, directory: String) throws -> RedactedCopies.Request {
    var request = RedactedCopies.Request(policyFile: policy, directory: absolute(directory))
    request.stores = try stores.map { text in
      guard let name = StoreName(text) else { throw ValidationError("'\(text)' can't be a store's name") }
      return name
    }
    (request.point, request.verifies) = (point, !noVerify)
    return request
  }
}

struct RedactCopyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "copy", abstract: "Deliver a copy of a point, redacted by a policy.",
    discussion: """
      The point's stores are restored where nobody reaches them, and made anew: fresh files, fresh databases, with every row, \
      key and file passed through the policy. What no rule speaks of refuses the whole copy. The directory appears when all \
      of it is there, and what was restored is gone by then.

      Exit status 6 if the policy does not fit.

      EXAMPLES
        salvor redact copy --policy development.yaml --to /srv/copies/today
        salvor redact copy --policy development.yaml --store ledger --to /srv/copies/ledger --dry-run
      """)

  @Option(help: "The policy's file.", completion: .file(extensions: ["yaml", "yml"])) var policy: String
  @Option(help: "The directory to deliver; it must not exist.", completion: .directory) var to: String
  @OptionGroup var target: RedactTarget
  @Flag(name: [.customShort("n"), .long], help: "Only check the policy against the point.") var dryRun = false
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let copies = RedactedCopies(managed, journal: try await system.journal())
    let display = ProgressDisplay(output, managed.host)
    let request = try target.request(policy: policy, directory: to)
    if dryRun {
      let checked = try await copies.check(request) { display.line.show("redact", $0) }
      display.line.clear()
      try RedactTexts.show(checked, output)
      return
    }
    let delivered = try await copies.copy(request) { display.line.show("redact", $0) }
    display.line.clear()
    try output.show(delivered) { style in
      var table = Table("store", "path", "rows", "entries", "dropped")
      for (name, store) in delivered.stores.sorted(by: { $0.key < $1.key }) {
        table.add(
          name.text, "\(to)/\(store.path)", "\(store.count.rows.values.reduce(0, +))", "\(store.count.entries)",
          "\(store.count.dropped)")
      }
      return ["\(delivered.point), redacted by \(delivered.policy)"] + table.lines(style)
    }
  }
}

enum RedactTexts {
  static func show(_ checked: RedactedCopies.Checked, _ output: OutputOptions) throws {
    try output.show(checked) { style in
      let what =
        "\(checked.tables.of("table")), \(checked.columns.of("column")), \(checked.entries) keys and files of \(checked.point)"
      return checked.problems.isEmpty
        ? ["\(checked.policy) speaks of everything: \(what)"]
        : ["\(checked.policy) does not fit \(what)"] + checked.problems.map { "  " + $0.harmless }
    }
    if !checked.problems.isEmpty { throw ExitStatus.refused }
  }
}

struct RedactCheckCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check", abstract: "Look whether a policy speaks of everything that a point's stores hold.",
    discussion: """
      Exit status 6 if it doesn't: a column, key or path that no rule speaks of, a reference whose ends have different rules.

      EXAMPLE
        salvor redact check --policy development.yaml
      """)

  @Option(help: "The policy's file.", completion: .file(extensions: ["yaml", "yml"])) var policy: String
  @OptionGroup var target: RedactTarget
  @Option(help: "Where the point is restored in private; a server's user must be able to pass.", completion: .directory)
  var work = "/var/tmp"
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let copies = RedactedCopies(managed, journal: try await system.journal())
    let checked = try await copies.check(
      try target.request(policy: policy, directory: "\(work)/check")
    ) { display.line.show("check", $0) }
    display.line.clear()
    try RedactTexts.show(checked, output)
  }
}

struct RedactSuggestCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "suggest",
    abstract: "Write a first policy: everything stores hold, with what looks like somebody's marked.",
    discussion: """
      What looks like nobody's gets the word 'decide', which is no action: somebody has to choose one.

      EXAMPLE
        salvor redact suggest --store ledger > development.yaml
      """)

  @Option(help: "What the policy is called.") var name = "development"
  @OptionGroup var target: RedactTarget
  @Option(help: "Where the point is restored in private; a server's user must be able to pass.", completion: .directory)
  var work = "/var/tmp"
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let managed = try await system.load()
    let display = ProgressDisplay(output, managed.host)
    let copies = RedactedCopies(managed, journal: try await system.journal())
    let text = try await copies.suggest(
      name: name, try target.request(policy: "", directory: "\(work)/suggest")
    ) { display.line.show("suggest", $0) }
    display.line.clear()
    try output.show(["policy": text]) { _ in [String(text.dropLast())] }
  }
}

struct RedactScanCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "scan", abstract: "Look for values in a delivered copy: in every byte, and through its engines.",
    discussion: """
      The file has a value on each line, of at least 4 bytes. Each is looked for as it is in any case, reversed, in UTF-16, \
      hexadecimal, base64 and percent-encoded; numbers in binary too. Lines are named, values never.

      Exit status 4 if one is found.

      EXAMPLE
        salvor redact scan /srv/copies/today --for planted.txt
      """)

  @Argument(help: "The copy.", completion: .directory) var directory: String
  @Option(name: .customLong("for"), help: "The values, one to a line.", completion: .file()) var list: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let host = system.host
    let display = ProgressDisplay(output, host)
    let outcome = try await SecretSearch(host).run(in: absolute(directory), for: list) { display.line.show("scan", $0) }
    display.line.clear()
    try output.show(outcome) { _ in
      let what = "\(outcome.values.of("value")) in \(outcome.files.of("file")), \(outcome.bytes) bytes"
      let read = outcome.stores.isEmpty ? "" : ", and through the engines of \(outcome.stores.joined(separator: ", "))"
      return ["looked for \(what)\(read)"]
        + outcome.found.prefix(100).map {
          "  line \($0.line) \($0.way): \($0.place)\($0.offset.map { " at \($0)" } ?? "")"
        }
        + [outcome.found.isEmpty ? "found none" : "found \(outcome.found.count)"]
    }
    if !outcome.found.isEmpty { throw ExitStatus.validationFailed }
  }
}
