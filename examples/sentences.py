"""Hold the sentences that the demo embeds: in each topic, three that say much the same in other words."""

TOPICS = {
    "train": (
        "The train to the coast leaves at half past six.",
        "At 6:30 a railway service departs for the seaside.",
        "Passengers for the beach should board the locomotive before six thirty.",
    ),
    "bread": (
        "Knead the dough for ten minutes and let it rise overnight.",
        "A loaf needs long kneading and a slow rise before it goes into the oven.",
        "Good bread is made of flour, water, salt, yeast and patience.",
    ),
    "rain": (
        "Heavy rain is expected in the mountains tomorrow.",
        "The forecast warns of downpours over the hills on the next day.",
        "Take an umbrella: storms will move across the highlands.",
    ),
    "code": (
        "The function returns a list of integers sorted in ascending order.",
        "Calling this method gives back an ordered array of numbers.",
        "The program's sort routine arranges its values from small to large.",
    ),
    "heart": (
        "The doctor listened to the patient's heartbeat with a stethoscope.",
        "A physician examined his heart and took his pulse.",
        "The cardiologist checked her for an irregular heart rhythm.",
    ),
    "orbit": (
        "The satellite circles the Earth every ninety minutes.",
        "In an hour and a half the spacecraft completes one orbit of our planet.",
        "A probe in low orbit goes round the globe sixteen times a day.",
    ),
}

SENTENCES = tuple(sentence for topic in TOPICS.values() for sentence in topic)
TOPIC_OF = tuple(topic for topic, sentences in TOPICS.items() for _ in sentences)
