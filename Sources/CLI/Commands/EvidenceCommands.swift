import ArgumentParser
import Console
import Core
import Foundation
import Governance
import IO
import Runtime

struct EvidenceCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evidence", abstract: "Signed records of what was done, checked offline.",
    subcommands: [EvidenceVerifyCommand.self, EvidenceKeyCommand.self])
}

struct EvidenceVerifyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify", abstract: "Check that a record is as it was signed, byte for byte.",
    discussion: """
      Needs nothing but the file and the public key, which must have come another way. Exit status 4 if anything was changed; \
      the message names the record.

      EXAMPLE
        salvor evidence verify recovery-3f9a1c0b77de-succeeded.json --key evidence.pub
      """)

  struct Result: Encodable {
    var run: String
    var records: Int
    var root: Digest
    var key: String
  }

  @Argument(help: "The evidence.", completion: .file()) var file: String
  @Option(help: "The public key's file (default: this machine's own).", completion: .file()) var key: String?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let bytes = try Files.read(file, limitBytes: 1 << 30)
    let publicKey: EvidencePublicKey
    if let key {
      publicKey = try EvidencePublicKey(text: String(decoding: try Files.read(key, limitBytes: 1 << 16), as: UTF8.self))
    } else {
      publicKey = try await EvidenceArchive(host: system.host).publicKey()
    }
    let evidence = try EvidenceVerifier.verify(bytes, publicKey: publicKey)
    try output.show(
      Result(run: evidence.run, records: evidence.records.count, root: evidence.root, key: publicKey.id)
    ) { style in
      [
        "\(style.paint("verified", .good))  \(evidence.run): \(evidence.records.count) records, signed by \(publicKey.id)"
      ]
    }
  }
}

struct EvidenceKeyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "key", abstract: "Print this machine's public key, for those who are to verify.",
    discussion: "EXAMPLE\n  salvor evidence key > evidence.pub")

  @OptionGroup var system: SystemOptions

  func run() async throws {
    let text = try await EvidenceArchive(host: system.host).publicKey().text
    standardOutput(text + (text.hasSuffix("\n") ? "" : "\n"))
  }
}
