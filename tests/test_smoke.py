import openai


async def test_the_sdk_gets_an_answer(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="scripted", input="say hello there")

    assert response.output_text == "hello there"


async def test_the_strict_stream_helper_is_content(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="scripted", input="think hm | say hello there") as stream:
        events = [event.type async for event in stream]
        final = await stream.get_final_response()

    assert final.output_text == "hello there"
    assert events[-1] == "response.completed"
