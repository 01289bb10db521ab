import Core
import Foundation
import IO
import TestSupport
import Testing

@Suite("salvor vault repair") struct RepairTests {
  @Test(.timeLimit(.minutes(10)))
  func `packs come back from a copy, and what stays lost leaves the rest`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    let copy = fixture.directory.file("copy")
    try await fixture.shell("cp -a \(fixture.repository) \(copy)")
    let whole = try await fixture.repositoryPicture()
    // The largest pack is hurt, the smallest is gone.
    let hurt = """
      cd \(fixture.repository)/data; set -- $(find . -type f -printf '%s %p\\n' | sort -n | cut -d' ' -f2)
      rm $1; for last; do :; done; chmod u+w $last; printf X | dd of=$last bs=1 seek=5000 conv=notrunc status=none
      """
    try await fixture.shell(hurt)
    expectFailure(try await fixture.salvor("check", "--read-data"), 4, "VAULT-140")

    let dry = try await fixture.salvor("repair", "packs", "--dry-run", "--from-mirror", copy, "--json").succeeded()
    let planned = try CanonicalJSON.decode(JSONValue.self, from: Array(dry.output.utf8))
    #expect(planned["repairs"]?.array?.map { $0["outcome"] } == ["restored", "restored"], "\(dry.output)")
    #expect(try await fixture.salvor("check").status == 4, "nothing was changed")
    let done = try await fixture.salvor("repair", "packs", "--from-mirror", copy).succeeded()
    #expect(done.output.contains("brought back whole from local:\(copy)"), "\(done.output)")
    #expect(try await fixture.repositoryPicture() == whole, "byte for byte")
    try await fixture.restic("check", "--read-data")

    // Without a copy: a second repository with the same content, then nothing at all.
    var second = fixture
    second.repository = fixture.directory.file("second")
    try await second.create()
    let from = ["RESTIC_FROM_REPOSITORY": fixture.repository, "RESTIC_FROM_PASSWORD_FILE": fixture.passwordFile]
    try await second.salvor("copy", environment: from).succeeded()
    try await fixture.shell(hurt)
    let names = ["RESTIC_FROM_REPOSITORY": second.repository, "RESTIC_FROM_PASSWORD_FILE": fixture.passwordFile]
    try await fixture.salvor("repair", "packs", environment: names).succeeded()
    try await fixture.restic("check", "--read-data")
    let kept = try FileManager.default.contentsOfDirectory(atPath: fixture.directory.path)
      .filter { $0.hasPrefix("pack-") }
    #expect(kept.count == 1, "the damaged file is kept")

    try await fixture.shell(hurt)
    let kept2 = fixture.directory.file("kept")
    expectFailure(try await fixture.salvor("repair", "packs", "--keep-damaged", kept2), 4, "VAULT-190")
    let saved = try await fixture.salvor("repair", "snapshots", "--forget").succeeded()
    #expect(saved.output.contains("1 snapshot damaged"), "\(saved.output)")
    try await fixture.restic("check", "--read-data")
    #expect(try await fixture.salvor("repair", "snapshots").succeeded().output.contains("0 snapshots damaged"))
  }
}
