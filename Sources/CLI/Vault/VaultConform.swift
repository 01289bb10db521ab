import ArgumentParser
import Console
import Core
import IO
import Runtime
import Vault

extension VaultCommand {
  struct Conform: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "conform", abstract: "Try out what a directory, bucket or server does, and doesn't do.",
      discussion: """
        Writes made-up objects below a new name in the place, and removes them again; a repository there is not touched. \
        'verified' was tried and held; 'claimed' is what the server says and the trial did not bear out; 'absent' is not \
        there. No password is needed.

        EXAMPLES
          salvor vault -r /srv/backup conform
          salvor vault -r s3:https://ceph.example/bucket/prefix conform
          salvor vault -r rest:https://backup.example:8000/alice/ conform --json
        """)
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let host = options.host
      var place = try await options.place()
      while place.hasSuffix("/") { place.removeLast() }
      let name = "salvor-conform-\(Hex.encode(host.randomness.bytes(8)))"
      let (store, isRemote) = try Registry.bareStore(at: "\(place)/\(name)", host: host)
      var report: ConformanceReport
      do {
        report = try await StoreTrial(store, randomness: host.randomness).run()
      } catch {
        if !isRemote { try await Self.remove(place, name, host) }
        throw error
      }
      if !isRemote {
        try await Self.remove(place, name, host)
        report.leftBehind = []
      }
      let shown = report
      try options.show(shown) { style in
        var table = Table("Property", "Verdict", "Seen")
        for finding in shown.findings {
          let tone: Style.Tone = finding.verdict == .verified ? .good : finding.verdict == .claimed ? .bad : .warning
          table.add(
            finding.property.rawValue, style.paint(finding.verdict.rawValue, tone), finding.detail.harmless)
        }
        let left = shown.leftBehind.isEmpty ? [] : ["left behind: " + shown.leftBehind.joined(separator: ", ").harmless]
        return table.lines(style) + left
      }
    }

    /// The directory of a trial, made by it, with a name that nobody else has.
    private static func remove(_ place: String, _ name: String, _ host: Machine) async throws {
      let root = place.hasPrefix("local:") ? String(place.dropFirst(6)) : place
      try await host.pool.run { () throws(SystemFailure) in
        if Files.isDirectory("\(root)/\(name)") { try Files.removeTree("\(root)/\(name)") }
      }
    }
  }
}
