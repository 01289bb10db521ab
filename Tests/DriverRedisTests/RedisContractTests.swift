import DriverContract
import DriverKit
import Testing

/// The promises every driver keeps, on a real server.
@Suite("Redis keeps the driver contract") struct RedisContractTests {
  let contract = DriverContract<RedisFixture>()

  @Test(.timeLimit(.minutes(10))) func traitsAreTold() async throws { try await contract.traitsAreTold() }
  @Test(.timeLimit(.minutes(10))) func captureIsWhole() async throws { try await contract.captureIsWhole() }
  @Test(.timeLimit(.minutes(10))) func digestIsOfTheContent() async throws { try await contract.digestIsOfTheContent() }
  @Test(.timeLimit(.minutes(10))) func cutIsExact() async throws { try await contract.cutIsExact() }
  @Test(.timeLimit(.minutes(10))) func heldMeansHeld() async throws { try await contract.heldMeansHeld() }
  @Test(.timeLimit(.minutes(10))) func holdLapsesByItself() async throws { try await contract.holdLapsesByItself() }
  @Test(.timeLimit(.minutes(10))) func markingHoldsAgain() async throws { try await contract.markingHoldsAgain() }
  @Test(.timeLimit(.minutes(10))) func closeFrees() async throws { try await contract.closeFrees() }
  @Test(.timeLimit(.minutes(10))) func cancellationFrees() async throws { try await contract.cancellationFrees() }
  @Test(.timeLimit(.minutes(10))) func sinkErrorsSurface() async throws { try await contract.sinkErrorsSurface() }
  @Test(.timeLimit(.minutes(10))) func restoreBesideIsProved() async throws {
    try await contract.restoreBesideIsProved()
  }
  @Test(.timeLimit(.minutes(10))) func damageIsFound() async throws { try await contract.damageIsFound() }
  @Test(.timeLimit(.minutes(10))) func swapInAndOut() async throws { try await contract.swapInAndOut() }
  @Test(.timeLimit(.minutes(10))) func swapReplays() async throws { try await contract.swapReplays() }
  @Test(.timeLimit(.minutes(10))) func lostStateComesBack() async throws { try await contract.lostStateComesBack() }
  @Test(.timeLimit(.minutes(10))) func precheckFindsNoSpace() async throws { try await contract.precheckFindsNoSpace() }
  @Test(.timeLimit(.minutes(10))) func precheckFindsReadOnlyTarget() async throws {
    try await contract.precheckFindsReadOnlyTarget()
  }
  @Test(.timeLimit(.minutes(10))) func precheckFindsOtherVersion() async throws {
    try await contract.precheckFindsOtherVersion()
  }
  @Test(.timeLimit(.minutes(10))) func precheckFindsRunningServer() async throws {
    try await contract.precheckFindsRunningServer()
  }
  @Test(.timeLimit(.minutes(10))) func swapIsRefusedWhileInUse() async throws {
    try await contract.swapIsRefusedWhileInUse()
  }
  @Test(.timeLimit(.minutes(10))) func queriesOnlyRead() async throws {
    try await contract.queriesOnlyRead(
      reading: "KEYS record:*",
      writing: [
        "SET record:1 x", "DEL record:1", "FLUSHALL", "EVAL \"redis.call('FLUSHALL')\" 0", "CONFIG SET save ''",
        "GETDEL record:1",
        "DB 0 DEL record:1", "SHUTDOWN NOSAVE", "SET \"unclosed", "",
      ])
  }

  /// Before the first replica the offset stands still, whatever is written.
  @Test(.timeLimit(.minutes(10))) func `a server that nobody follows is not marked`() async throws {
    let fixture = try await RedisFixture.start()
    let result: Result<Void, any Error>
    do {
      let session = try #require(try fixture.driver(.usual).marking())
      try await session.prepare()
      try await session.hold(limit: .seconds(10))
      await #expect(throws: DriverError.self) { try await session.mark() }
      _ = await session.release()
      await session.close()
      try await fixture.write(1, payload: "on it goes")
      result = .success(())
    } catch { result = .failure(error) }
    await fixture.shutDown()
    try result.get()
  }
}
