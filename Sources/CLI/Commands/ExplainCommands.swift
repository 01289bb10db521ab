import ArgumentParser
import Catalog
import Console
import Core
import DriverKit
import Failover
import Foundation
import IO
import Runtime
import StateKit
import Web

private func entries(_ path: String) throws -> [FailoverLogEntry] {
  do { return try FailoverLogEntry.entries(try Files.read(path, limitBytes: 1 << 30)) } catch {
    throw FailoverFailure.badLog(path, AnyFailure(error).report.summary)
  }
}

/// Where agents' records are: files that were named, or all of a policy's in the state directory.
struct RecordOptions: ParsableArguments {
  @Option(help: "Only this policy's records, by its name.") var policy: String?
  @Option(help: "Where agents keep their records (default: failover, in the state directory).", completion: .directory)
  var directory: String?

  /// - Returns: All entries by time, and what of `things` was no file.
  func load(_ things: [String], _ system: SystemOptions) throws -> (entries: [FailoverLogEntry], ids: [String]) {
    var paths = things.filter { Files.exists($0) && !Files.isDirectory($0) }
    let ids = things.filter { !paths.contains($0) }
    if let missing = ids.first(where: { $0.contains("/") || $0.hasSuffix(".log") }) {
      throw FailoverFailure.badLog(missing, "there is no such file")
    }
    if paths.isEmpty {
      let place = directory ?? system.host.stateDirectory + "/failover"
      let names = Files.isDirectory(place) ? try Files.names(in: place).map(\.lossyText) : []
      paths = names.filter { $0.hasSuffix(".log") && (policy == nil || $0.hasPrefix("\(policy!)-")) }.sorted()
        .map { "\(place)/\($0)" }
      guard !paths.isEmpty else { throw FailoverFailure.noRecord(place) }
    }
    var found = try paths.flatMap(entries)
    if let policy { found.removeAll { $0.policy.name.text != policy } }
    // Stable, so that one agent's own order is kept.
    let order = found.indices.sorted { (found[$0].at, $0) < (found[$1].at, $1) }
    return (order.map { found[$0] }, ids)
  }
}

struct ExplainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explain", abstract: "Show why: facts, rules, candidates and why not, from agents' records.",
    discussion: """
      Without files it looks at every record in the state directory; several agents' are merged by time. Without an id it \
      lists what there is.

      EXAMPLES
        salvor failover explain --policy bank
        salvor failover explain failover-17 --policy bank
        salvor failover explain bank-a.log bank-b.log failover-17
      """)

  @Argument(help: "Ids such as failover-17, and records that agents have written.") var things: [String] = []
  @OptionGroup var record: RecordOptions
  @Flag(help: "Every entry, not only the list of failovers.") var all = false
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  struct Failover: Encodable {
    var id: String
    var from: Timestamp
    var until: Timestamp
    var seenBy: [MemberName]
    var primary: MemberName?
    var rules: [FailoverRule]
  }

  func run() throws {
    let (found, ids) = try record.load(things, system)
    if ids.isEmpty, !all { return try list(found) }
    for id in ids where !found.contains(where: { $0.id == id }) { throw FailoverFailure.unknownFailover(id) }
    // What led to it belongs to it: each observer's entries since it was last calm.
    let chosen = ids.isEmpty ? found : ids.flatMap { FailoverText.story(of: $0, in: found) }
    try output.show(chosen) { style in chosen.flatMap { FailoverText.lines($0, style) } }
  }

  private func list(_ found: [FailoverLogEntry]) throws {
    var result: [Failover] = []
    for entry in found {
      guard let id = entry.id else { continue }
      let target = entry.decisions.last?.next.target
      if let index = result.firstIndex(where: { $0.id == id }) {
        result[index].until = entry.at
        if let target { result[index].primary = target }
        if !result[index].seenBy.contains(entry.facts.observer) { result[index].seenBy.append(entry.facts.observer) }
        for rule in entry.decisions.map(\.rule) where !result[index].rules.contains(rule) {
          result[index].rules.append(rule)
        }
      } else {
        result.append(
          Failover(
            id: id, from: entry.at, until: entry.at, seenBy: [entry.facts.observer], primary: target,
            rules: entry.decisions.map(\.rule)))
      }
    }
    let list = result
    try output.show(list) { style in
      guard !list.isEmpty else {
        return [
          "\(found.count.of("entry").replacing("entrys", with: "entries")), and no failover among them; --all shows them"
        ]
      }
      return list.map { failover in
        let length = (failover.until - failover.from).brief
        return
          "\(style.paint(failover.id, .strong))  \(failover.from)  \(length)  to \(failover.primary?.text ?? "-")  conducted by \(failover.seenBy.map(\.text).joined(separator: ", "))  \(failover.rules.map(\.rawValue).joined(separator: " "))"
      }
    }
  }
}

struct ReplayCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay", abstract: "Decide every recorded decision again, from its facts, and compare.",
    discussion: """
      EXAMPLES
        salvor failover replay bank-a.log
      """)

  @Argument(help: "A record an agent has written.") var file: String

  func run() throws {
    let found = try entries(file)
    for (index, entry) in found.enumerated() where entry.replayed() != entry.decisions {
      throw FailoverFailure.replaysDifferently(file, index + 1)
    }
    standardOutput("\(found.count.of("record")) replayed to the same decisions\n")
  }
}

struct HealCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "heal",
    abstract: "Say what each kind of failure calls for: restart, failover, restore; and who must say yes.",
    discussion: """
      With --secret the agents are asked what they see now. Nothing is done.

      EXAMPLES
        salvor failover heal --policy bank
        salvor failover heal --policy bank --secret file:/etc/salvor/agents
      """)

  @OptionGroup var policy: PolicyOptions
  @Option(help: "What agents show each other: file:…, env:… or command:….") var secret: String?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  struct Row: Encodable {
    var rule: HealingRule
    var failure: FailureClass
    var response: FailoverHealing.Response
    var says: String
  }

  func run() async throws {
    let policy = try await policy.load(system)
    guard let secret else {
      let rows = FailureClass.allCases.map { failure in
        Row(
          rule: HealingRule(failure), failure: failure, response: policy.healing.response(to: failure),
          says: HealingRule(failure).says)
      }
      return try output.show(rows) { _ in FailoverText.table(rows) }
    }
    let advice = try await ask(policy, secret)
    try output.show(advice) { style in
      advice.isEmpty ? ["nothing is wrong that anybody sees"] : advice.flatMap { FailoverText.lines($0, style) }
    }
  }

  private func ask(_ policy: FailoverPolicy, _ text: String) async throws -> [HealingAdvice] {
    guard let reference = SecretReference(text) else {
      throw ValidationError("a secret is given by reference: file:/path, env:NAME or command:program")
    }
    let host = system.host
    let shared = try await SecretResolver(environment: host.environment, pool: host.pool).resolve(reference)
    let web = try WebClient(time: host.time)
    for member in policy.members + policy.witnesses {
      var request = WebRequest(.get, member.agent + "/v1/facts")
      request.headers = [("authorization", "Bearer \(shared.revealed())")]
      request.timeLimit = .seconds(2)
      request.responseLimitBytes = 1 << 20
      if let response = try? await web.send(request), response.isSuccess,
        let facts = try? CanonicalJSON.decode(FailoverFacts.self, from: response.body)
      {
        return policy.healing(for: facts)
      }
    }
    throw FailoverFailure.noAnswer("of \(policy.members.map(\.name.text).joined(separator: ", "))")
  }
}
