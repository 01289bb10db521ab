import ArgumentParser
import Catalog
import Console
import Core
import Failover
import IO
import Runtime

struct HistoryCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "history", abstract: "List who became primary, when and why, from the evidence log.",
    discussion: """
      An agent puts what it decides into its machine's evidence log, and whom the lease store names. `salvor evidence prove` \
      takes an entry's number. Where the agents' records are here too, each decision is made again from its facts.

      EXAMPLES
        salvor failover history
        salvor failover history --policy bank -o json
        salvor failover history --log /mnt/copy/log --key log.keys
      """)

  @Option(help: "Only this one: its name, or its file.") var policy: String?
  @Option(help: "Another log's directory, such as a copy (default: this machine's own).", completion: .directory)
  var log: String?
  @Option(help: "Where agents' records are (default: failover, in the state directory).", completion: .directory)
  var directory: String?
  @OptionGroup var trust: TrustOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let host = system.host
    var name = policy
    if let policy, Files.exists(absolute(policy)) {
      name = try await PolicyFiles.load(absolute(policy), catalog: system.catalogPath, pool: host.pool).name.text
    }
    let records = directory.map(absolute) ?? host.stateDirectory + "/failover"
    let opened = try await openLog(log, trust, system)
    let history = FailoverHistory(
      try opened.entries(), policy: name, records: await host.pool.run { FailoverHistory.records(in: records) })
    try output.show(history.rows) { style in
      history.rows.flatMap { row in
        let before = row.previous.map { ", after \($0)" } ?? ""
        let position = row.position.map { " at \($0)" } ?? ""
        let served = row.servedAt == nil ? "not seen to serve by who decided" : "served \(row.servedAt ?? "")"
        let title = "\(row.at)  \(row.policy)  epoch \(row.epoch)  \(row.primary)\(position)\(before)"
        let who = row.decidedBy.map { "decided by \($0); \(served)" } ?? "seen in the lease store; decided elsewhere"
        let order = row.orderedBy.map { "; ordered by \($0)" } ?? ""
        let proof = proof(row)
        return [style.paint(title.harmless, row.isReplayed == false ? .bad : .good), "  \(who)\(order)".harmless]
          + row.why.map { "    \($0)".harmless }
          + (row.decision.map { ["  decision \($0)".harmless] } ?? [])
          + ["  proof: entries \(row.entries.map(String.init).joined(separator: ", ")) of the evidence log\(proof)"]
      }
    }
    if history.rows.contains(where: { $0.isReplayed == false }) { throw ExitStatus.incomplete }
  }

  private func proof(_ row: FailoverHistory.Row) -> String {
    switch row.isReplayed {
    case true: "; replayed to the same decision"
    case false: "; THE AGENT'S RECORD IS ANOTHER, OR COMES TO ANOTHER DECISION"
    default: ""
    }
  }
}
