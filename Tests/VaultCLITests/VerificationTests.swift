import Core
import Foundation
import IO
import TestSupport
import Testing
import Vault

@Suite("salvor vault check, in parts") struct VerificationTests {
  /// A repository of several packs of one file each.
  private func manyPacks() async throws -> VaultFixture {
    let fixture = try await VaultFixture.withRepository()
    for seed in 0..<8 {
      try fixture.write("noise-\(seed)", SeededRandomness(seed: UInt64(100 + seed)).bytes(40_000))
      try await fixture.salvor("backup", "source/noise-\(seed)").succeeded()
    }
    return fixture
  }

  private func report(_ run: CommandRun) throws -> JSONValue {
    try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8))
  }

  @Test(.timeLimit(.minutes(10)))
  func `parts read every pack once, and when is kept`() async throws {
    let fixture = try await manyPacks()
    let packs = Int64(try await fixture.salvor("list", "packs").succeeded().output.split(separator: "\n").count)
    try #require(packs >= 16)
    let plain = try report(try await fixture.salvor("check", "--json").succeeded())
    #expect(plain["readPacks"] == 0 && plain["verification"]?["verifiedPacks"] == 0)
    #expect(!Files.exists(fixture.directory.file("state/vault")), "who only looks leaves nothing behind")
    var read: Int64 = 0
    for part in 1...3 {
      let run = try report(try await fixture.salvor("check", "--read-data-subset", "\(part)/3", "--json").succeeded())
      read += run["readPacks"]?.integer ?? 0
      #expect(run["verification"]?["verifiedPacks"] == .integer(read))
    }
    #expect(read == packs, "each pack is in one part")
    let lately = try report(try await fixture.salvor("check", "--read-data-older-than", "1h", "--json").succeeded())
    #expect(lately["readPacks"] == 0 && lately["verification"]?["oldest"]?.string != nil)
    #expect(lately["verification"]?["freshBytes"] == lately["verification"]?["bytes"])
    let all = try report(try await fixture.salvor("check", "--read-data-older-than", "0s", "--json").succeeded())
    #expect(all["readPacks"] == .integer(packs))

    let share = try report(try await fixture.salvor("check", "--read-data-subset", "25%", "--json").succeeded())
    #expect(share["readPacks"] == .integer(packs / 4))
    let size = try report(try await fixture.salvor("check", "--read-data-subset", "1", "--json").succeeded())
    #expect(size["readPacks"] == 1, "at least one, as in restic")
    // What came since waits longest, and a size bounds the run.
    try fixture.write("late", SeededRandomness(seed: 7).bytes(40_000))
    try await fixture.salvor("backup", "source/late").succeeded()
    let bounded = try report(
      try await fixture.salvor("check", "--read-data-older-than", "1h", "--read-data-subset", "1", "--json").succeeded()
    )
    #expect(bounded["readPacks"] == 1)
    let rest = try report(try await fixture.salvor("check", "--read-data-older-than", "1h", "--json").succeeded())
    let now = Int64(try await fixture.salvor("list", "packs").succeeded().output.split(separator: "\n").count)
    #expect(now > packs && rest["readPacks"] == .integer(now - packs - 1), "the others that came since")
    let text = try await fixture.salvor("check").succeeded().output
    #expect(text.contains("100 % was ever read whole by this machine; the oldest reading is of 20"), "\(text)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `damage is in one part only, and a pack found damaged is not verified`() async throws {
    let fixture = try await manyPacks()
    try await fixture.salvor("check", "--read-data").succeeded()
    let pack = try await fixture.shell("find \(fixture.repository)/data -type f -size +30k | sort | head -1")
      .trimmingCharacters(in: .newlines)
    try await fixture.shell("chmod u+w \(pack); printf x | dd of=\(pack) bs=1 seek=5000 conv=notrunc 2>/dev/null")
    try await fixture.salvor("check").succeeded()
    #expect(try await fixture.salvor("check", "--read-data-older-than", "1d").status == 0, "it was read a moment ago")
    var found = 0
    for part in 1...4 {
      let run = try await fixture.salvor("check", "--read-data-subset", "\(part)/4")
      if run.status == 4 {
        found += 1
        #expect(run.output.contains(Files.last(of: pack)))
      }
    }
    #expect(found == 1)
    let run = try await fixture.salvor("check", "--read-data-older-than", "1d", "--json")
    #expect(run.status == 4, "it waits to be read again")
    #expect(try report(run)["readPacks"] == 0 || (try report(run)["readPacks"]) == 1)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a record that is damaged, or another repository's, counts as nothing`() async throws {
    let fixture = try await manyPacks()
    try await fixture.salvor("check", "--read-data").succeeded()
    let record = try await fixture.shell("find ../state/vault -name 'verified-*'").trimmingCharacters(in: .newlines)
    let path = "\(fixture.source)/\(record)"
    let whole = try Files.read(path)
    let mode = try await fixture.shell("stat -c %a \(record)")
    #expect(mode == "600\n")
    var flipped = whole
    flipped[whole.count / 2] ^= 1
    let other = try await VaultFixture.withRepository()
    try await other.salvor("backup", "source/plain").succeeded()
    try await other.salvor("check", "--read-data").succeeded()
    let foreign = try await other.shell("cat ../state/vault/*/verified-* | base64 -w0")
    for bytes in [flipped, Array(whole.dropLast(7)), [], Array(Data(base64Encoded: foreign) ?? Data())] {
      try Files.replace(path, with: bytes)
      let run = try await fixture.salvor("check", "--read-data-older-than", "9d", "--json").succeeded()
      #expect(run.errors.contains("VAULT-211"), "\(run.errors)")
      #expect(try report(run)["readPacks"] == (try report(run)["packs"]), "everything is read again")
    }
    // A state directory that can't be written to keeps nobody from checking.
    try Files.replace(fixture.directory.file("blocked"), with: [])
    let run = try await fixture.salvor("check", "--read-data", "--state", fixture.directory.file("blocked")).succeeded()
    #expect(run.errors.contains("VAULT-21"), "\(run.errors)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a part that makes no sense is a mistake`() async throws {
    let fixture = try await VaultFixture()
    for part in ["0/3", "4/3", "1/257", "1/0", "0%", "101%", "-1", "x", "1/2/3", "", "9999999999999999999G"] {
      #expect(try await fixture.salvor("check", "--read-data-subset=\(part)").status == 2, "\(part)")
    }
    #expect(try await fixture.salvor("check", "--read-data", "--read-data-subset", "1/2").status == 2)
    #expect(try await fixture.salvor("check", "--read-data-older-than", "soon").status == 2)
  }

  @Test func `parts are chosen as restic chooses them`() {
    let packs = (0..<512).map { number in
      (id: Digest.of("pack \(number)"), sizeBytes: 1000 + number)
    }.sorted { $0.id < $1.id }
    let chance = SeededRandomness(seed: 3)
    func choose(_ selection: ReadSelection, _ verified: [Digest: Timestamp] = [:]) -> Set<Digest> {
      selection.choose(of: packs, verified: verified, randomness: chance)
    }
    var all: Set<Digest> = []
    for number in 1...7 {
      let part = choose(ReadSelection(.bucket(number: number, count: 7)))
      #expect(part == Set(packs.map(\.id).filter { Int($0.bytes[0]) % 7 == number - 1 }))
      #expect(all.isDisjoint(with: part))
      all.formUnion(part)
    }
    #expect(all.count == 512)
    #expect(choose(ReadSelection(.share(0.1))).count == 51)
    #expect(choose(ReadSelection(.share(0.1))) != choose(ReadSelection(.share(0.1))), "drawn by lot")
    let total = packs.reduce(0) { $0 + $1.sizeBytes }
    #expect(choose(ReadSelection(.bytes(total / 2))).count == 256)
    #expect(choose(ReadSelection(.bytes(.max))).count == 512)
    // Oldest first, never read before anything else.
    var verified: [Digest: Timestamp] = [:]
    for (number, pack) in packs.enumerated().dropFirst(3) {
      verified[pack.id] = Timestamp(seconds: Int64(1000 - number))
    }
    let old = choose(ReadSelection(.bytes(4500), unverifiedSince: Timestamp(seconds: 2000)), verified)
    #expect(old == Set(packs.prefix(3).map(\.id) + packs.suffix(old.count - 3).map(\.id)) && old.count >= 4)
    #expect(choose(ReadSelection(.all, unverifiedSince: Timestamp(seconds: 0)), verified).count == 3)
  }
}
