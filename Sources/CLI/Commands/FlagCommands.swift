import ArgumentParser
import Console
import Core
import Flags
import Runtime

struct FlagCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "flag", abstract: "Read feature flags: from a file, or from a service that speaks OFREP.",
    discussion: """
      EXAMPLES
        salvor flag list --source /etc/salvor/flags.json
        salvor flag get rollouts-allowed --source http://flags:8016 --type boolean --default false
      """,
    subcommands: [FlagGetCommand.self, FlagListCommand.self])
}

struct FlagOptions: ParsableArguments {
  @Option(help: "A file's path, or http://host:port of an OFREP service.", completion: .file(extensions: ["json"]))
  var source: String
  @Option(help: "The token the service wants: file:…, env:… or command:….") var credential: String?
  @Option(help: "KEY=VALUE that goes with the question; can be given several times.") var context: [String] = []

  func client(_ host: Machine) throws -> FlagClient {
    let reference = try credential.map { text in
      guard let found = SecretReference(text) else {
        throw ValidationError("a secret is given by reference: file:/path, env:NAME or command:program")
      }
      return found
    }
    let place = source.hasPrefix("http://") || source.hasPrefix("https://") ? source : absolute(source)
    var client = FlagClient(try FlagSources.open(place, credential: reference, host: host))
    for text in context {
      let parts = text.split(separator: "=", maxSplits: 1)
      guard parts.count == 2 else { throw ValidationError("'\(text)' is not KEY=VALUE") }
      client.context[String(parts[0])] = String(parts[1])
    }
    return client
  }
}

struct FlagGetCommand: AsyncParsableCommand {
  enum Kind: String, CaseIterable, ExpressibleByArgument { case boolean, string, number, any }

  static let configuration = CommandConfiguration(
    commandName: "get", abstract: "Ask for one flag: value, reason, variant.",
    discussion: """
      With --default the default is printed where there is no value, and why goes to standard error. With --switch only a
      value of true from the source itself exits with 0; anything else, errors included, exits with 6.

      EXAMPLES
        salvor flag get rollouts-allowed --source /etc/salvor/flags.json
        salvor flag get rollouts-allowed --source http://flags:8016 --switch
        salvor flag get pool-size --source http://flags:8016 --type number --default 10 --context region=eu
      """)

  @Argument(help: "The flag's key.") var key: String
  @OptionGroup var flags: FlagOptions
  @Option(help: "boolean, string, number or any.") var type = Kind.any
  @Option(help: "What is said where there is no value.") var `default`: String?
  @Flag(help: "A kill switch: on, or denied.") var `switch` = false
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    guard let found = FlagKey(key) else { throw FlagError.badKey(key) }
    let client = try flags.client(system.host)
    if `switch` {
      let (isAllowed, answer) = await client.allows(found)
      try output.show(answer) { _ in
        [isAllowed ? "allowed" : "denied: \(answer.errorMessage ?? answer.reason.rawValue)"]
      }
      if !isAllowed { throw ExitStatus.refused }
      return
    }
    let answer = try await ask(client, found)
    if let code = answer.errorCode {
      let error = FlagError.missing(key, code, answer.errorMessage ?? "")
      guard `default` != nil else { throw error }
      standardError("\(error.report.summary)\n")
    }
    try output.show(answer) { _ in [answer.shown] }
  }

  private func ask(_ client: FlagClient, _ key: FlagKey) async throws -> FlagAnswer {
    switch type {
    case .boolean:
      guard let fallback = Bool(`default` ?? "false") else { throw ValidationError("--default must be true or false") }
      return await client.boolean(key, default: fallback)
    case .number:
      guard let fallback = Double(`default` ?? "0") else { throw ValidationError("--default must be a number") }
      return await client.number(key, default: fallback)
    case .string: return await client.string(key, default: `default` ?? "")
    case .any:
      var answer = await client.value(key)
      if answer.errorCode != nil || answer.value == .null, let text = `default` { answer.value = .string(text) }
      return answer
    }
  }
}

struct FlagListCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "Show every flag the source has.",
    discussion: """
      EXAMPLES
        salvor flag list --source /etc/salvor/flags.json
      """)

  @OptionGroup var flags: FlagOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let client = try flags.client(system.host)
    let all = try await client.source.all(client.context)
    try output.show(all) { _ in
      all.map { answer in
        let why = answer.errorMessage.map { ": \($0)" } ?? ""
        return "\(answer.key)  \(answer.text)  \(answer.reason.rawValue)\(answer.variant.map { " \($0)" } ?? "")\(why)"
      }
    }
  }
}

extension FlagAnswer {
  /// The value as a person writes it.
  fileprivate var shown: String {
    switch value {
    case .string(let text): text.harmless
    case .bool(let value): "\(value)"
    case .integer(let value): "\(value)"
    case .number(let value): "\(value)"
    default: ((try? CanonicalJSON.text(value)) ?? "").harmless
    }
  }
}
